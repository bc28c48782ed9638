// This file imports layers that other tools wrote, such as those of container images.
// It does not trust them.

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

	"meros/runner/hint"
)

// Import unpacks a foreign layer into the new directory dir, in the form of [Unpack].
// Names may begin with "./", repeat, and come in any order.
//
// lower is the tree of the layers below, or "". If the layer lacks the directory above
// a file, Import creates it as in lower. It leaves out device nodes, because a guest
// makes its own. It refuses paths out of the tree and owner ids from 65536 on.
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

// maxImport bounds the size of all files of a layer together, in bytes. A few bytes of
// an archive can expand to a file of any size.
const maxImport = 64 << 30

// maxID is the first user or group id that a file cannot have: an ordinary user's
// namespace maps the ids below it. Root could set any id, but refuses the same ones,
// or ordinary users could not use its layers.
const maxID = 65536

// maxPath is PATH_MAX without the final NUL, limits.h.
const maxPath = 4095

// lastTime is the last time that fits 64 bits of nanoseconds.
var lastTime = time.Unix(0, math.MaxInt64)

// importer is an [unpacker] that accepts more forms.
type importer struct {
	unpacker
	size    int64 // of the files so far, bytes
	implied int   // directories without an entry in the layer
	lower   *os.Root
	removed map[string]bool // paths that the layer removes from the layers below
}

// entry creates one entry.
func (i *importer) entry(h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
	if name == "." || h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if !filepath.IsLocal(name) {
		return errOutside
	}
	if len(name) > maxPath || len(h.Linkname) > maxPath {
		return fmt.Errorf("longer than %d bytes, the limit of a path", maxPath)
	}
	name, err := i.follow(name)
	if err != nil {
		return err
	}
	if h.ModTime.Before(time.Unix(0, 0)) || h.ModTime.After(lastTime) {
		h.ModTime = time.Unix(0, 0) // file systems store such times differently
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
		return hint.Add(fmt.Errorf("belongs to %d:%d, but a root file system has the ids 0 to %d", h.Uid, h.Gid, maxID-1), "change the owner where the image is made")
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
		if parent, base, err = i.openParent(name); err != nil { // raise may have opened another one
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
		i.closeParent() // RemoveAll may remove it
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

// linked returns the path of the file that a hard link names. An overlay cannot link
// to a file of a layer below, so linked first copies such a file into this layer.
func (i *importer) linked(link string) (string, error) {
	to := path.Clean(link)
	if !filepath.IsLocal(to) {
		return "", fmt.Errorf("link to %q, outside of the tree", link)
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
		return "", fmt.Errorf("link to %q, which exists neither earlier in the layer nor in the layers below", link)
	case fi.IsDir():
		return "", fmt.Errorf("link to %q, a directory", link)
	case fi.Mode()&fs.ModeDevice != 0: // a whiteout
		return "", fmt.Errorf("link to %q, which the layer removes", link)
	}
	if _, err := i.root.Lstat(to); err != nil {
		return "", fmt.Errorf("link to %q, not a regular file in the layers below", link)
	}
	return to, nil
}

// shows reports whether the layers below are visible through this one at a name.
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

// raise copies a file of the layers below into this layer.
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

// whiteout hides a name of the layers below, or all their names in the directory. The
// layer's own files stay, whichever comes first (layer.md of the OCI image
// specification).
func (i *importer) whiteout(fd int, name, hidden string) error {
	switch {
	case whiteoutPrefix+hidden == opaqueMarker:
		i.removed[path.Dir(name)] = true
		return unix.Fsetxattr(fd, opaqueXattr, []byte("y"), 0)
	case strings.HasPrefix(hidden, whiteoutPrefix):
		return nil // metadata of AUFS
	case hidden == "" || hidden == "." || hidden == "..":
		return errors.New("a whiteout that names no file")
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

// hideAll hides everything in the layers below, name by name: the top of a tree has no
// entry to mark as opaque.
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

// maxFollowed limits the links that a path may lead through, path_resolution(7).
const maxFollowed = 40

// follow returns a name with the links of the layers below resolved, such as /lib if
// it is a link to /usr/lib.
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
			continue // the layer's own entry hides the ones below
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
			return "", errors.New("the path leads through links to nowhere")
		}
		parts, k = strings.Split(rest, "/"), -1
	}
	return path.Join(path.Join(parts...), path.Base(name)), nil
}

// opaque marks a directory that hides the one below.
func (i *importer) opaque(name string) error {
	d, err := i.root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Fsetxattr(int(d.Fd()), opaqueXattr, []byte("y"), 0)
}

// parents creates the missing directories above an entry.
func (i *importer) parents(dir string) error {
	if dir == "." {
		return nil
	}
	fi, err := i.root.Lstat(dir)
	if err == nil && fi.Mode()&fs.ModeCharDevice == 0 {
		return nil // opening it fails if it is not a directory
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
