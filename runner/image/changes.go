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

// ErrRepack says that a difference is better, or only, made by packing the
// whole tree anew.
var ErrRepack = errors.New("the difference is too large or too odd to be applied to an image")

// ErrNoSpace is the [ErrRepack] of an image that has no room for the difference.
var ErrNoSpace = fmt.Errorf("%w: it has no room", ErrRepack)

// odd is the [ErrRepack] of a path.
func odd(name, why string) error { return fmt.Errorf("%w: /%s %s", ErrRepack, name, why) }

// Past these a whole new image is made faster than a difference is applied.
const (
	maxChanges     = 1500
	maxChangeBytes = 96 * mib
)

// change is what becomes of one path of the base.
type change struct {
	name   string // relative path
	file   string // what it is to be, in an unpacked layer; empty if removed
	fi     fs.FileInfo
	exists fs.FileInfo // what is there in the base, or nil
	was    string      // its file, if exists
	kept   bool        // what is there stays, and becomes what the file is but for its content
}

// changes is the difference that layers, unpacked as overlay directories and
// applied in order, make to the tree base: in the order in which to apply it.
// all says that there is no other way, however many there are and however odd.
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
				bytes += fi.Size() // a directory's size is the host's affair
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
		if c.kept, err = c.keeps(); err != nil {
			return nil, err
		}
		if !all && c.loses() {
			return nil, odd(c.name, "had extended attributes")
		}
		if c.needed() {
			list = append(list, c)
		}
		if why := c.odd(); why != "" {
			return nil, odd(c.name, why)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list, nil
}

// tree is a directory that nobody changes, with what is known of those in it: to
// be there for debugfs, which follows no links, a path must lead through
// directories alone.
type tree struct {
	dir  string
	dirs map[string]bool
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

// enter notes what an entry of a layer makes of the layers before it, and of
// the base.
func enter(final map[string]change, base tree, name, file string, fi fs.FileInfo, all bool) error {
	st := fi.Sys().(*syscall.Stat_t)
	if fi.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0 {
		final[name] = change{name: name}
		return hide(final, base, name)
	}
	if fi.IsDir() {
		if before := final[name]; before.file != "" && !before.fi.IsDir() {
			return odd(name, "is a file in one layer and a directory in the next")
		}
		final[name] = change{name: name, file: file, fi: fi}
		if n, err := unix.Lgetxattr(file, "user.overlay.opaque", make([]byte, 8)); err == nil && n > 0 {
			return hide(final, base, name)
		}
		return nil
	}
	if st.Nlink > 1 && !all {
		return odd(name, "has hard links")
	}
	if before := final[name]; before.file != "" && before.fi.IsDir() {
		return odd(name, "is a directory in one layer and a file in the next")
	}
	final[name] = change{name: name, file: file, fi: fi}
	if was, err := base.lstat(name); err != nil || !was.IsDir() {
		return nil
	}
	return hide(final, base, name)
}

// hide notes that nothing is left of what was below a directory, in layers and
// in the base: debugfs has to remove it one by one.
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

// keeps tells whether only what is said of a file differs, and not what is in
// it. Then it keeps what an image of somebody else's says of it beyond what a
// layer does: labels of a security module, for one. A further name of the file
// would change with it.
func (c change) keeps() (bool, error) {
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

// loses tells whether a file goes whose attributes may have a block of their
// own: debugfs would leave that in use. The attributes of a program, which are
// its capabilities, are within its inode.
func (c change) loses() bool {
	if c.exists == nil || c.kept || c.exists.Mode()&fs.ModeSymlink != 0 {
		return false
	}
	had, err := keptXattrs(c.was)
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
		if err != nil || berr != nil { // most likely the end
			return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), nil
		}
	}
}

// needed is false for a removal of what is not there and for a directory that
// stays as it is.
func (c change) needed() bool {
	if c.file == "" {
		return c.exists != nil
	}
	if !c.kept || !c.fi.IsDir() {
		return true
	}
	if same, err := sameXattrs(c.file, c.was); err != nil || !same {
		return true
	}
	a, b := c.fi.Sys().(*syscall.Stat_t), c.exists.Sys().(*syscall.Stat_t)
	return a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim.Sec != b.Mtim.Sec
}

// odd is what debugfs cannot do, or cannot be told to do, of a change, or "".
func (c change) odd() string {
	if why := unnameable(c.name); why != "" || c.file == "" {
		return why
	}
	switch c.fi.Mode().Type() {
	case 0, fs.ModeDir:
		if oddXattrs(c.file, path.Base(c.name)) || c.kept && oddXattrs(c.was, path.Base(c.name)) {
			return "has an odd extended attribute"
		}
		return ""
	case fs.ModeSymlink:
		to, err := os.Readlink(c.file)
		if err != nil || strings.ContainsAny(to, lineEnds) || len(quoted(to))+len(quoted(path.Base(c.name))) > maxCommand-32 {
			return "is a link that leads to an odd name"
		}
		return ""
	}
	return "is a device, a socket or a pipe"
}
