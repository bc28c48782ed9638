package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Import makes the directory dir from a layer that somebody else's tool wrote,
// as [Unpack] does from ours: names may begin with "./", come in any order and
// more than once. A directory above a file that the layer does not have itself
// is as in lower, the tree of the layers below ("" is none). Device nodes are
// left out: a guest makes its own. What leads out of the tree is refused, and an
// owner whose id is 65536 or more.
func Import(ctx context.Context, r io.Reader, dir, lower string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	i := &importer{unpacker: unpacker{ctx: ctx, root: root, dir: dir}, removed: make(map[string]bool)}
	if lower != "" {
		if i.lower, err = os.OpenRoot(lower); err != nil {
			return err
		}
		defer i.lower.Close()
	}
	return i.read(tar.NewReader(r), i.entry)
}

// maxImport bounds what all files of a layer hold together, bytes: a few bytes
// of an archive can stand for a file of any size.
const maxImport = 64 << 30

// maxID is how many ids of users, and of groups, a file may have: those that an
// ordinary user's namespace maps. Root, who could give a file any, does not
// either, or what it made would be of no use to others.
const maxID = 65536

// maxPath is PATH_MAX without its end, limits.h.
const maxPath = 4095

// lastTime is the last that fits 64 bits of nanoseconds.
var lastTime = time.Unix(0, math.MaxInt64)

// importer is an [unpacker] that takes more.
type importer struct {
	unpacker
	size    int64
	implied int // directories that the layer has no entry of
	lower   *os.Root
	removed map[string]bool // what the layer removes from those below
}

func (i *importer) entry(h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
	if name == "." || h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if !filepath.IsLocal(name) {
		return errors.New("is not a path within the tree")
	}
	if len(name) > maxPath || len(h.Linkname) > maxPath {
		return fmt.Errorf("is longer than the %d bytes of a path", maxPath)
	}
	name, err := i.follow(name)
	if err != nil {
		return err
	}
	if h.ModTime.Before(time.Unix(0, 0)) || h.ModTime.After(lastTime) {
		h.ModTime = time.Unix(0, 0) // file systems differ on what they keep of it
	}
	if i.size += h.Size; h.Size < 0 || h.Size > maxImport || i.size > maxImport {
		return fmt.Errorf("the layer's files hold more than %d bytes", int64(maxImport))
	}
	if err := i.parents(path.Dir(name)); err != nil {
		return err
	}
	parent, base, err := i.openParent(name)
	if err != nil {
		return err
	}
	fd := int(parent.Fd())
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		if name == opaqueMarker {
			return i.hideAll(fd)
		}
		return i.whiteout(fd, path.Join(path.Dir(name), hidden), hidden)
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		return nil
	}
	if h.Uid < 0 || h.Uid >= maxID || h.Gid < 0 || h.Gid >= maxID {
		return fmt.Errorf("belongs to %d:%d, and a root file system has the ids 0 to %d (chown it where the image is made)", h.Uid, h.Gid, maxID-1)
	}
	switch h.Typeflag {
	case tar.TypeGNUSparse:
		h.Typeflag = tar.TypeReg // its holes are read as zeros
	case tar.TypeLink:
		if h.Linkname, err = i.linked(h.Linkname); err != nil {
			return err
		}
		if h.Linkname == name {
			return nil
		}
		if parent, base, err = i.openParent(name); err != nil { // that of a file from below may be open now
			return err
		}
		fd = int(parent.Fd())
	}
	old, err := i.root.Lstat(name)
	if err == nil && old.IsDir() && h.Typeflag == tar.TypeDir {
		i.dirs = append(i.dirs, dirTime{name, h.ModTime})
		return i.attributes(fd, base, h)
	}
	if err == nil {
		i.closeParent() // it may be what is removed
		if err := i.root.RemoveAll(name); err != nil {
			return err
		}
		if parent, base, err = i.openParent(name); err != nil {
			return err
		}
		fd = int(parent.Fd())
	}
	if err := i.create(fd, base, name, h, r); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir && i.removed[name] {
		return i.opaque(name)
	}
	return nil
}

// linked is where the file is that a hard link names. An overlay cannot link
// to what is in a layer below, so such a file becomes this layer's, too.
func (i *importer) linked(link string) (string, error) {
	to := path.Clean(link)
	if !filepath.IsLocal(to) {
		return "", fmt.Errorf("is a link to %q, outside of the tree", link)
	}
	to, err := i.follow(to)
	if err != nil {
		return "", err
	}
	fi, err := i.root.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) && i.shows(to) {
		if fi, err = i.lower.Lstat(to); err == nil && fi.Mode().IsRegular() {
			return to, i.raise(to)
		}
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("is a link to %q, which neither the layer has before it nor those below", link)
	case fi.IsDir():
		return "", fmt.Errorf("is a link to %q, a directory", link)
	case fi.Mode()&fs.ModeDevice != 0: // what was removed
		return "", fmt.Errorf("is a link to %q, which the layer removes", link)
	}
	if _, err := i.root.Lstat(to); err != nil {
		return "", fmt.Errorf("is a link to %q, which is no regular file in the layers below", link)
	}
	return to, nil
}

// shows tells whether the layers below show through this one at a name.
func (i *importer) shows(name string) bool {
	if i.lower == nil || i.removed[name] {
		return false
	}
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		if fi, err := i.root.Lstat(d); i.removed[d] || err == nil && !fi.IsDir() {
			return false
		}
	}
	return true
}

// raise makes a file of the layers below one of this layer.
func (i *importer) raise(name string) error {
	h, err := Describe(i.lower, name)
	if err != nil {
		return err
	}
	f, err := i.lower.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return i.entry(h, f)
}

// whiteout hides what layers below have under a name, or all that they have in
// the directory. What this layer has itself stays, whichever comes first
// (layer.md of the OCI image specification).
func (i *importer) whiteout(fd int, name, hidden string) error {
	switch {
	case whiteoutPrefix+hidden == opaqueMarker:
		i.removed[path.Dir(name)] = true
		return unix.Fsetxattr(fd, opaqueXattr, []byte("y"), 0)
	case strings.HasPrefix(hidden, whiteoutPrefix):
		return nil // what AUFS kept for itself
	case hidden == "" || hidden == "." || hidden == "..":
		return errors.New("removes nothing that has a name")
	}
	i.removed[name] = true
	fi, err := i.root.Lstat(name)
	if err == nil {
		if fi.IsDir() {
			return i.opaque(name)
		}
		return nil
	}
	return unix.Mknodat(fd, hidden, unix.S_IFCHR, 0)
}

// hideAll hides all that the layers below have: the top of a tree has no entry
// that could say so.
func (i *importer) hideAll(fd int) error {
	if i.lower == nil {
		return nil
	}
	top, err := i.lower.Open(".")
	if err != nil {
		return err
	}
	defer top.Close()
	names, err := top.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := i.whiteout(fd, n, n); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// maxFollowed is how many links a path may lead through, path_resolution(7).
const maxFollowed = 40

// follow is where a name is that leads through links of the layers below, as
// /lib does where it is a link to /usr/lib.
func (i *importer) follow(name string) (string, error) {
	if i.lower == nil {
		return name, nil
	}
	dir := path.Dir(name)
	if fi, err := i.root.Lstat(dir); err == nil && fi.IsDir() {
		return name, nil
	}
	parts := strings.Split(dir, "/")
	for k, followed := 0, 0; k < len(parts); k++ {
		at := path.Join(parts[:k+1]...)
		if _, err := i.root.Lstat(at); err == nil {
			continue // the layer's own counts
		}
		fi, err := i.lower.Lstat(at)
		if err != nil || fi.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		to, err := i.lower.Readlink(at)
		if err != nil {
			return "", err
		}
		if !path.IsAbs(to) {
			to = path.Join("/", path.Dir(at), to)
		}
		rest := path.Join(append([]string{strings.TrimPrefix(path.Clean(to), "/")}, parts[k+1:]...)...)
		if followed++; followed > maxFollowed || rest == "" {
			return "", errors.New("leads through links that lead nowhere")
		}
		parts, k = strings.Split(rest, "/"), -1
	}
	return path.Join(path.Join(parts...), path.Base(name)), nil
}

func (i *importer) opaque(name string) error {
	d, err := i.root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Fsetxattr(int(d.Fd()), opaqueXattr, []byte("y"), 0)
}

// parents makes the directories above an entry that the layer has not made.
func (i *importer) parents(dir string) error {
	if dir == "." {
		return nil
	}
	fi, err := i.root.Lstat(dir)
	if err == nil && fi.Mode()&fs.ModeCharDevice == 0 {
		return nil // if it is no directory, what opens it says so
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if i.implied++; i.implied > maxEntries {
		return fmt.Errorf("more than %d entries", maxEntries)
	}
	h := &tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}
	if i.lower != nil && err != nil {
		if fi, err := i.lower.Lstat(dir); err == nil && fi.IsDir() {
			if h, err = Describe(i.lower, dir); err != nil {
				return err
			}
		}
	}
	return i.entry(h, nil)
}
