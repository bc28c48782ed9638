// This file computes the changes that unpacked layers make to a tree. debugfs.go
// turns the changes into commands.

package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrRepack says that the changes are too many or unsupported. The caller should
// pack the whole tree again instead.
var ErrRepack = errors.New("the changes cannot be applied to the image")

// ErrNoSpace is an [ErrRepack]: the image has too little free space.
var ErrNoSpace = fmt.Errorf("%w: not enough free space", ErrRepack)

// unsupported returns the [ErrRepack] of a path.
func unsupported(name, why string) error { return fmt.Errorf("%w: /%s %s", ErrRepack, name, why) }

// Above these limits, making a whole image is faster than applying the changes.
const (
	maxChanges     = 1500
	maxChangeBytes = 96 * mib
)

// change is the change of one path of the base.
type change struct {
	name   string      // relative path
	file   string      // the new file, in an unpacked layer; empty if removed
	fi     fs.FileInfo // of file
	exists fs.FileInfo // of the base's file, or nil
	was    string      // the base's file, if exists
	reused bool        // the inode of the base stays; only its metadata changes
}

// changes returns the changes that layers make to the tree base, in the order in
// which to apply them. The layers are unpacked as overlay directories, the lowest
// first. all lifts the limits on size and count, and admits hard links and lost
// attributes: a foreign image cannot be packed again.
func changes(base string, layers []string, all bool) ([]change, error) {
	final, below := make(map[string]change), tree{base, make(map[string]bool)}
	bytes := int64(0)
	for _, layer := range layers {
		err := filepath.WalkDir(layer, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name, err := filepath.Rel(layer, file)
			if err != nil || name == "." {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			if fi.Mode().IsRegular() {
				bytes += fi.Size() // a directory's size depends on the host
			}
			if !all && (len(final) > maxChanges || bytes > maxChangeBytes) {
				return ErrRepack
			}
			return enter(final, below, name, file, fi, all)
		})
		if err != nil {
			return nil, err
		}
	}
	if !all && len(final) > maxChanges {
		return nil, ErrRepack
	}
	var list []change
	for _, c := range final {
		if fi, err := below.lstat(c.name); err == nil {
			c.exists, c.was = fi, filepath.Join(base, c.name)
		}
		var err error
		if c.reused, err = c.canReuse(); err != nil {
			return nil, err
		}
		if !all && c.leaksBlock() {
			return nil, unsupported(c.name, "had extended attributes")
		}
		if c.needed() {
			list = append(list, c)
		}
		if why := c.unsupported(); why != "" {
			return nil, unsupported(c.name, why)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list, nil
}

// tree is a directory that does not change. It looks paths up as debugfs does:
// debugfs follows no links, so every part of a path but the last must be a
// directory.
type tree struct {
	dir  string
	dirs map[string]bool // whether a path is a directory, once looked up
}

func (t tree) lstat(name string) (fs.FileInfo, error) {
	if !t.isDir(filepath.Dir(name)) {
		return nil, fs.ErrNotExist
	}
	return os.Lstat(filepath.Join(t.dir, name))
}

func (t tree) isDir(name string) bool {
	if name == "." {
		return true
	}
	is, known := t.dirs[name]
	if !known {
		fi, err := t.lstat(name)
		is = err == nil && fi.IsDir()
		t.dirs[name] = is
	}
	return is
}

// enter records the entry of a layer over the layers below it and over the base.
func enter(final map[string]change, base tree, name, file string, fi fs.FileInfo, all bool) error {
	st := fi.Sys().(*syscall.Stat_t)
	if fi.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0 {
		final[name] = change{name: name}
		return hide(final, base, name)
	}
	if fi.IsDir() {
		if before := final[name]; before.file != "" && !before.fi.IsDir() {
			return unsupported(name, "is a file in one layer and a directory in the next")
		}
		final[name] = change{name: name, file: file, fi: fi}
		if n, err := unix.Lgetxattr(file, "user.overlay.opaque", make([]byte, 8)); err == nil && n > 0 {
			return hide(final, base, name)
		}
		return nil
	}
	if st.Nlink > 1 && !all {
		return unsupported(name, "has hard links")
	}
	if before := final[name]; before.file != "" && before.fi.IsDir() {
		return unsupported(name, "is a directory in one layer and a file in the next")
	}
	final[name] = change{name: name, file: file, fi: fi}
	if was, err := base.lstat(name); err != nil || !was.IsDir() {
		return nil
	}
	return hide(final, base, name)
}

// hide records that everything below a directory is removed, in the layers and
// in the base. debugfs has to remove the base's files one by one.
func hide(final map[string]change, base tree, name string) error {
	for other := range final {
		if strings.HasPrefix(other, name+"/") {
			delete(final, other)
		}
	}
	if fi, err := base.lstat(name); err != nil || !fi.IsDir() {
		return nil
	}
	top := filepath.Join(base.dir, name)
	return filepath.WalkDir(top, func(file string, _ fs.DirEntry, err error) error {
		if err != nil || file == top {
			return err
		}
		rel, err := filepath.Rel(base.dir, file)
		final[rel] = change{name: rel}
		return err
	})
}

// canReuse reports whether only metadata changed. Such a file keeps its inode.
// With the inode it keeps metadata that layers lack, such as the labels of a
// security module. A file with several names is not reused, because its other
// names would change too.
func (c change) canReuse() (bool, error) {
	if c.file == "" || c.exists == nil || c.fi.Mode().Type() != c.exists.Mode().Type() {
		return false, nil
	}
	switch c.fi.Mode().Type() {
	case fs.ModeDir:
		return true, nil
	case fs.ModeSymlink:
		a, err := os.Readlink(c.file)
		b, berr := os.Readlink(c.was)
		return a == b && c.exists.Sys().(*syscall.Stat_t).Nlink == 1, errors.Join(err, berr)
	case 0:
		if c.fi.Size() == c.exists.Size() && c.exists.Sys().(*syscall.Stat_t).Nlink == 1 {
			return sameContent(c.file, c.was)
		}
	}
	return false, nil
}

// leaksBlock reports whether debugfs may lose a block by removing the file: it does
// not free the block of a file's extended attributes. The capabilities of a
// program are stored in its inode, and need no block.
func (c change) leaksBlock() bool {
	if c.exists == nil || c.reused || c.exists.Mode()&fs.ModeSymlink != 0 {
		return false
	}
	had, err := preservedXattrs(c.was)
	delete(had, "security.capability")
	return err != nil || len(had) > 0
}

func sameContent(a, b string) (bool, error) {
	f, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer g.Close()
	x, y := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(f, x)
		m, berr := io.ReadFull(g, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if err != nil || berr != nil { // usually the end of both
			return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), nil
		}
	}
}

// needed reports whether the change has an effect. Removing a path that does not
// exist has none, nor has a directory that stays the same.
func (c change) needed() bool {
	if c.file == "" {
		return c.exists != nil
	}
	if !c.reused || !c.fi.IsDir() {
		return true
	}
	if same, err := sameXattrs(c.file, c.was); err != nil || !same {
		return true
	}
	a, b := c.fi.Sys().(*syscall.Stat_t), c.exists.Sys().(*syscall.Stat_t)
	return a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim.Sec != b.Mtim.Sec
}

// unsupported returns the part of a change that debugfs cannot make or that no
// command can express, or "".
func (c change) unsupported() string {
	if why := unnameable(c.name); why != "" || c.file == "" {
		return why
	}
	switch c.fi.Mode().Type() {
	case 0, fs.ModeDir:
		if unsupportedXattrs(c.file, path.Base(c.name)) || c.reused && unsupportedXattrs(c.was, path.Base(c.name)) {
			return "has an unsupported extended attribute"
		}
		return ""
	case fs.ModeSymlink:
		to, err := os.Readlink(c.file)
		if err != nil || strings.ContainsAny(to, lineEnds) || len(quoted(to))+len(quoted(path.Base(c.name))) > maxCommand-32 {
			return "is a symbolic link with an unsupported target"
		}
		return ""
	}
	return "is a device, a socket or a pipe"
}
