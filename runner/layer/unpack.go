// This file unpacks a layer into a new directory, without trusting the archive.

package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxEntries bounds the files that a hostile archive can create. A full desktop has
// about half a million.
const maxEntries = 5_000_000

// errOutside refuses the name of an entry.
var errOutside = errors.New("not a path within the tree")

// Unpack unpacks the layer in file into the new directory dir. An overlay mounted with
// userxattr accepts the result as a lower directory: whiteouts are character devices
// 0:0, and opaque directories have the attribute.
//
// Unpack does not trust the archive: whatever its names and links, it touches nothing
// outside dir.
func Unpack(ctx context.Context, file, dir string) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacker{ctx: ctx, root: root, dir: dir}
	return u.read(tar.NewReader(f), u.entry)
}

// unpacker creates the entries of a layer below root.
type unpacker struct {
	ctx  context.Context
	root *os.Root
	dir  string
	dirs []dirTime

	// The directory of the last entry stays open for the next one.
	parentName string
	parent     *os.File
}

// dirTime is the time of a directory, set at the end: filling a directory changes it.
type dirTime struct {
	name string
	time time.Time
}

// read calls entry for each entry of the archive, then sets the times of the
// directories.
func (u *unpacker) read(tr *tar.Reader, entry func(*tar.Header, io.Reader) error) error {
	defer u.closeParent()
	for n := 0; ; n++ {
		if n > maxEntries {
			return fmt.Errorf("more than %d entries", maxEntries)
		}
		if n%256 == 0 && u.ctx.Err() != nil {
			return u.ctx.Err()
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := entry(h, tr); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		if fi, err := u.root.Lstat(d.name); err != nil || !fi.IsDir() {
			continue // replaced by a later entry
		}
		if err := u.root.Chtimes(d.name, d.time, d.time); err != nil {
			return err
		}
	}
	return nil
}

// entry creates one entry.
func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	name := strings.TrimSuffix(h.Name, "/")
	if !filepath.IsLocal(name) || name == "." || path.Clean(name) != name {
		return errOutside
	}
	parent, base, err := u.openParent(name)
	if err != nil {
		return err
	}
	fd := int(parent.Fd())
	if base == opaqueMarker {
		return unix.Fsetxattr(fd, opaqueXattr, []byte("y"), 0)
	}
	if rest, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return unix.Mknodat(fd, rest, unix.S_IFCHR, 0)
	}
	return u.create(fd, base, name, h, r)
}

// create creates an entry, which must not exist yet, with the metadata of its header.
// It uses the directory descriptor fd, and never follows a link.
func (u *unpacker) create(fd int, base, name string, h *tar.Header, r io.Reader) error {
	mode := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(fd, base, h, r)
	case tar.TypeDir:
		if err := unix.Mkdirat(fd, base, 0o700); err != nil {
			return err
		}
		u.dirs = append(u.dirs, dirTime{name, h.ModTime})
	case tar.TypeLink:
		to := path.Clean(h.Linkname)
		if !filepath.IsLocal(to) {
			return fmt.Errorf("link to %q, outside of the tree", h.Linkname)
		}
		return u.root.Link(to, name)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, fd, base); err != nil {
			return err
		}
	case tar.TypeFifo:
		if err := unix.Mknodat(fd, base, unix.S_IFIFO|mode, 0); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock:
		return errors.New("a device node, which no layer may contain")
	default:
		return fmt.Errorf("unknown type %q", h.Typeflag)
	}
	return u.attributes(fd, base, h)
}

// file creates a regular file.
func (u *unpacker) file(fd int, base string, h *tar.Header, r io.Reader) error {
	out, err := unix.Openat(fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(out), base)
	defer f.Close()
	if err := copySparse(f, r, h.Size); err != nil {
		return err
	}
	if err := f.Chown(h.Uid, h.Gid); err != nil {
		return err
	}
	if err := unix.Fchmod(out, uint32(h.Mode&0o7777)); err != nil { // after chown(2), which clears setuid
		return err
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrRecord); ok && preservedXattr(name) {
			if err := unix.Fsetxattr(out, name, []byte(v), 0); err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	ts := unix.NsecToTimespec(h.ModTime.UnixNano())
	return unix.UtimesNanoAt(fd, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// attributes sets the owner, mode, extended attributes and time of an entry that is
// not a regular file.
func (u *unpacker) attributes(fd int, base string, h *tar.Header) error {
	if err := unix.Fchownat(fd, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(fd, base, uint32(h.Mode&0o7777), 0); err != nil {
			return err
		}
	}
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, xattrRecord)
		if !ok || !preservedXattr(name) {
			continue
		}
		p := fmt.Sprintf("/proc/self/fd/%d/%s", fd, base)
		if err := unix.Lsetxattr(p, name, []byte(v), 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	ts := unix.NsecToTimespec(h.ModTime.UnixNano())
	return unix.UtimesNanoAt(fd, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// openParent opens the directory of name without leaving the tree, and returns it with
// the base name. The directory must exist.
func (u *unpacker) openParent(name string) (*os.File, string, error) {
	dir, base := path.Split(name)
	dir = path.Clean("./" + dir)
	if u.parent != nil && u.parentName == dir {
		return u.parent, base, nil
	}
	fi, err := u.root.Lstat(dir)
	if err != nil {
		return nil, "", err
	}
	if !fi.IsDir() {
		return nil, "", &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
	}
	f, err := u.root.Open(dir)
	if err != nil {
		return nil, "", err
	}
	u.closeParent()
	u.parent, u.parentName = f, dir
	return f, base, nil
}

func (u *unpacker) closeParent() {
	if u.parent != nil {
		u.parent.Close()
		u.parent = nil
	}
}

// sparseBlock is the smallest run of zeros that becomes a hole, bytes.
const sparseBlock = 64 << 10

var zeros [sparseBlock]byte

// copySparse copies size bytes to f and leaves holes for blocks of zeros.
func copySparse(f *os.File, r io.Reader, size int64) error {
	if size < 4*sparseBlock {
		_, err := io.CopyN(f, r, size)
		return err
	}
	buf := make([]byte, sparseBlock)
	for at := int64(0); at < size; {
		n, err := io.ReadFull(r, buf[:min(size-at, sparseBlock)])
		if err != nil {
			return err
		}
		if string(buf[:n]) != string(zeros[:n]) {
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return f.Truncate(size)
}
