// This file writes the hostile entries of a package into a tree, and nothing
// outside of it.

package debian

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// tree is a directory for untrusted entries. On the way to an entry, the kernel
// follows symbolic links as if the tree were the root directory. It never follows
// the entry itself.
type tree struct{ fd int }

func openTree(dir string) (tree, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return tree{}, fmt.Errorf("%s: %w", dir, err)
	}
	return tree{fd}, nil
}

func (t tree) close() { unix.Close(t.fd) }

// open opens a path within the tree.
func (t tree) open(name string, flags uint64, perm uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Mode: perm, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for range 1000 {
		fd, err := unix.Openat2(t.fd, name, &how)
		// With EAGAIN, a rename may have raced with "..", and the kernel gave up.
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err == unix.ENOSYS {
			return -1, hint.Add(errors.New("the kernel has no openat2(2)"), "meros needs Linux 5.6 or newer, and no seccomp filter that hides this call")
		}
		return fd, err
	}
	return -1, unix.EAGAIN
}

// dir opens a directory of the tree with O_PATH.
func (t tree) dir(name string) (int, error) {
	return t.open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// mkdirs creates the directory and its parents with mode 0755, if they are missing.
func (t tree) mkdirs(name string) error {
	fd, err := t.dir(name)
	if err == nil {
		return unix.Close(fd)
	}
	if err != unix.ENOENT || name == "." {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := t.mkdirs(path.Dir(name)); err != nil {
		return err
	}
	if fd, err = t.dir(path.Dir(name)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := unix.Mkdirat(fd, path.Base(name), 0o755); err != nil && err != unix.EEXIST {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// write creates or replaces a file of the database. Its directory must exist.
func (t tree) write(name string, data []byte, perm uint32) error {
	fd, err := t.dir(path.Dir(name))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := unix.Unlinkat(fd, path.Base(name), 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("%s: %w", name, err)
	}
	f, err := unix.Openat(fd, path.Base(name), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer unix.Close(f)
	if err := writeAll(f, data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := unix.Fchmod(f, perm); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// read returns a file of at most limit bytes.
func (t tree) read(name string, limit int64) ([]byte, error) {
	fd, err := t.open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() || fi.Size() > limit {
		return nil, fmt.Errorf("%s: is not a file of at most %d bytes", name, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// unpacker writes the data part of one package into a tree.
type unpacker struct {
	tree      tree
	conffiles map[string]bool // files whose names get the suffix dpkgNew
	buffer    []byte

	list []string   // all names, as dpkg lists them: "/.", "/usr", "/usr/bin/x"
	dirs []dirEntry // directories with their final metadata

	parentName string
	parentFD   int
}

// dirEntry is the entry of a directory in a package.
type dirEntry struct {
	name     string
	mode     uint32
	uid, gid int
	mtime    time.Time
}

const (
	dpkgNew = ".dpkg-new"

	// maxEntries limits the entries of one package. The largest in Debian has
	// some 200,000.
	maxEntries = 2_000_000
	maxName    = 4096
)

func newUnpacker(t tree, conffiles map[string]bool) *unpacker {
	return &unpacker{tree: t, conffiles: conffiles, buffer: make([]byte, 256<<10), parentFD: -1}
}

func (u *unpacker) close() {
	if u.parentFD >= 0 {
		unix.Close(u.parentFD)
		u.parentFD = -1
	}
}

// entry writes one entry of the archive.
func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	name := path.Clean(strings.TrimPrefix(h.Name, "/"))
	if !filepath.IsLocal(name) || len(name) > maxName || strings.ContainsAny(name, "\n\x00") {
		return fmt.Errorf("%q: is not a path within the tree", h.Name)
	}
	if len(u.list) == maxEntries {
		return fmt.Errorf("more than %d entries", maxEntries)
	}
	if name == "." {
		u.list = append(u.list, "/.")
	} else {
		u.list = append(u.list, "/"+name)
	}
	if err := u.create(name, h, r); err != nil {
		if err == unix.EEXIST {
			err = hint.Add(errors.New("exists already, from another package"), hintDebootstrap)
		}
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	return nil
}

func (u *unpacker) create(name string, h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		return u.mkdir(name, h)
	}
	if name == "." {
		return errors.New("is not a directory")
	}
	parent, err := u.parent(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	if u.conffiles["/"+name] && h.Typeflag == tar.TypeReg {
		base += dpkgNew
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(parent, base, h, r)
	case tar.TypeSymlink:
		return symlink(parent, base, h)
	case tar.TypeLink:
		return u.link(parent, base, h)
	}
	// Policy 10.6: packages have no device nodes, and no FIFOs or sockets.
	return fmt.Errorf("is of type %q, which a package must not have", h.Typeflag)
}

// parent returns the descriptor of a directory, and retains it for the next
// entries.
func (u *unpacker) parent(name string) (int, error) {
	if u.parentFD >= 0 && u.parentName == name {
		return u.parentFD, nil
	}
	fd, err := u.tree.dir(name)
	if err == unix.ENOENT {
		if err = u.tree.mkdirs(name); err == nil {
			fd, err = u.tree.dir(name)
		}
	}
	if err != nil {
		return -1, err
	}
	u.close()
	u.parentName, u.parentFD = name, fd
	return fd, nil
}

// mkdir creates a directory. settleDirs sets its metadata later, because several
// packages may have the directory and are unpacked at the same time.
func (u *unpacker) mkdir(name string, h *tar.Header) error {
	d := dirEntry{name: name, mode: uint32(h.Mode & 0o7777), uid: h.Uid, gid: h.Gid, mtime: h.ModTime}
	if name != "." {
		parent, err := u.parent(path.Dir(name))
		if err != nil {
			return err
		}
		err = unix.Mkdirat(parent, path.Base(name), 0o700)
		if err == unix.EEXIST {
			// As with dpkg, a symbolic link to a directory remains.
			var fd int
			if fd, err = u.tree.dir(name); err == nil {
				unix.Close(fd)
			}
		}
		if err != nil {
			return err
		}
	}
	u.dirs = append(u.dirs, d)
	return nil
}

func (u *unpacker) file(parent int, base string, h *tar.Header, r io.Reader) error {
	fd, err := unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		n, err := r.Read(u.buffer)
		if n > 0 {
			if err := writeAll(fd, u.buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	if err := unix.Fchmod(fd, uint32(h.Mode&0o7777)); err != nil {
		return err
	}
	if err := setXattrs(fd, h); err != nil {
		return err
	}
	return setTime(parent, base, h.ModTime)
}

// setXattrs sets the attributes that a package may have: capabilities and user
// attributes.
func setXattrs(fd int, h *tar.Header) error {
	for record, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(record, "SCHILY.xattr.")
		if !ok || name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

func symlink(parent int, base string, h *tar.Header) error {
	err := unix.Symlinkat(h.Linkname, parent, base)
	if err == unix.EEXIST {
		// The same link is not a conflict: base-files has those of the merged /usr.
		target := make([]byte, maxName+1)
		n, rerr := unix.Readlinkat(parent, base, target)
		if rerr != nil || string(target[:n]) != h.Linkname {
			return err
		}
		err = nil
	}
	if err != nil {
		return err
	}
	if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	return setTime(parent, base, h.ModTime)
}

// link makes a hard link to an earlier entry of the same package.
func (u *unpacker) link(parent int, base string, h *tar.Header) error {
	target := path.Clean(strings.TrimPrefix(h.Linkname, "/"))
	if !filepath.IsLocal(target) || target == "." {
		return fmt.Errorf("is a link to %q, not within the tree", h.Linkname)
	}
	from, err := u.tree.dir(path.Dir(target))
	if err != nil {
		return fmt.Errorf("is a link to %q: %w", h.Linkname, err)
	}
	defer unix.Close(from)
	old := path.Base(target)
	if u.conffiles["/"+target] {
		old += dpkgNew
	}
	if err := unix.Linkat(from, old, parent, base, 0); err != nil {
		if err == unix.EEXIST {
			return err
		}
		return fmt.Errorf("is a link to %q: %w", h.Linkname, err)
	}
	return nil
}

func setTime(parent int, base string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(parent, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
