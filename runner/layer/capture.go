// Package layer turns directory trees into canonical archives and back.
//
// # The format
//
// A layer is the difference that a step makes to a file system, as a POSIX
// tar: entries sorted by path, a directory before what it holds; owners as
// numbers; extended attributes as PAX records SCHILY.xattr.NAME; no
// modification time later than a given one and all of them in whole seconds;
// a removed path as an empty file .wh.NAME, a replaced directory with an empty file
// .wh..wh..opq inside (the whiteouts of the OCI image specification). The
// same tree always gives the same bytes, so a layer is named by their digest.
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
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Whiteout names, OCI image specification, "Representing Changes".
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// Capture writes the tree below dir to w as a layer. Where the tree is the
// upper directory of an overlay (mounted with userxattr), the removals in it
// become whiteouts. Entries newer than epoch get epoch as their time. With
// settle, the files themselves get the times the layer has, so that the tree
// is what unpacking the layer would give.
func Capture(ctx context.Context, w io.Writer, dir string, epoch time.Time, settle bool) error {
	return (&capture{ctx: ctx, epoch: epoch, settle: settle}).tree(w, dir)
}

// CaptureSystem is [Capture] of a root file system that others made and keep:
// its device nodes are left out, for whoever runs in the layer gets others. It
// tells what of the system is not in the layer, but for labels of a security
// module, which the host may have given to all it has. Where a file has an
// access list, the group's bits of its mode are the most that anybody in the list
// gets, acl(5), and are left out.
func CaptureSystem(ctx context.Context, w io.Writer, dir string, epoch time.Time) ([]Omission, error) {
	c := &capture{ctx: ctx, epoch: epoch, system: true}
	err := c.tree(w, dir)
	return c.omitted, err
}

// Omission is what of a system no layer has.
type Omission struct {
	What  string `json:"what"` // in the plural
	First string `json:"first,omitempty"`
	Count int    `json:"count,omitempty"` // 0 is not known
}

// accessLists are the extended attributes of acl(5), of which a layer says
// nothing: a directory of the host may give them to all that is made in it.
var accessLists = []string{"system.posix_acl_access", "system.posix_acl_default"}

func (c *capture) omit(what, name string) {
	i := slices.IndexFunc(c.omitted, func(o Omission) bool { return o.What == what })
	if i < 0 {
		i, c.omitted = len(c.omitted), append(c.omitted, Omission{What: what, First: "/" + name})
	}
	c.omitted[i].Count++
}

// omitAttributes notes what the layer does not say of a file.
func (c *capture) omitAttributes(name, file string) error {
	names, err := listXattrs(file)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(names, func(n string) bool { return slices.Contains(accessLists, n) }) {
		c.omit("access lists", name)
	}
	return nil
}

func (c *capture) tree(w io.Writer, dir string) error {
	c.tw, c.root, c.epoch, c.links = tar.NewWriter(w), dir, c.epoch.Truncate(time.Second), make(map[inode]string)
	if err := c.dir("."); err != nil {
		return fmt.Errorf("capture %s: %w", dir, err)
	}
	return c.tw.Close()
}

type capture struct {
	ctx     context.Context
	tw      *tar.Writer
	root    string
	epoch   time.Time
	settle  bool
	system  bool             // there may be device nodes, which are left out
	omitted []Omission       // of a system
	top     string           // where the entry is from, if there are several
	links   map[inode]string // first path of each inode with several names
}

// inode is a file below one of several tops: names in different ones are
// never links of each other.
type inode struct {
	top      string
	dev, ino uint64
}

// dir writes the entries of a directory; the directory's own entry, if it is
// not the root, has been written. The root's is left out: a layer does not
// say what / is.
func (c *capture) dir(rel string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(c.root, rel))
	if err != nil {
		return err
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return err
		}
		name := path.Join(rel, e.Name())
		if err := c.entry(name, fi); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (c *capture) entry(name string, fi fs.FileInfo) error {
	file := filepath.Join(c.root, name)
	st := fi.Sys().(*syscall.Stat_t)
	if c.system && fi.Mode()&fs.ModeDevice != 0 {
		c.omit("device nodes", name)
		return nil
	}
	if isWhiteout(fi, st) {
		return c.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: whiteoutName(name), Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
	}
	if strings.HasPrefix(path.Base(name), whiteoutPrefix) {
		return errors.New("a name that begins with .wh. cannot be kept in a layer, where it means a removal; rename it")
	}
	if c.system {
		if err := c.omitAttributes(name, file); err != nil {
			return err
		}
	}
	h, opaque, err := c.header(name, file, fi, st)
	if err == nil && h == nil && c.settle {
		return os.Remove(file) // the tree is to be what the layer unpacks to
	}
	if err != nil || h == nil {
		return err
	}
	if c.settle {
		if err := removeXattrs(file, foreignXattr); err != nil {
			return err
		}
	}
	if err := c.tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg && h.Size > 0 {
		if err := c.content(file, h.Size); err != nil {
			return err
		}
	}
	if fi.IsDir() {
		if opaque {
			err := c.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(name, opaqueMarker), Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
			if err != nil {
				return err
			}
		}
		if err := c.dir(name); err != nil {
			return err
		}
	}
	if c.settle {
		return settle(file, h.ModTime)
	}
	return nil
}

// header describes one entry. It is nil for what a layer leaves out: sockets,
// which are of no use without the process that listens.
func (c *capture) header(name, file string, fi fs.FileInfo, st *syscall.Stat_t) (h *tar.Header, opaque bool, err error) {
	h = &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: clamp(fi.ModTime(), c.epoch), Format: tar.FormatPAX,
	}
	switch fi.Mode().Type() {
	case 0:
		h.Typeflag, h.Size = tar.TypeReg, fi.Size()
		if st.Nlink > 1 {
			if first, ok := c.links[inode{c.top, st.Dev, st.Ino}]; ok {
				h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
				return h, false, nil
			}
			c.links[inode{c.top, st.Dev, st.Ino}] = name
		}
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case fs.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(file); err != nil {
			return nil, false, err
		}
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		return nil, false, errors.New("a device node cannot be kept in a layer: where it is unpacked it would be a device of that host (devtmpfs makes those of a machine)")
	default:
		return nil, false, nil
	}
	if c.system && h.Typeflag != tar.TypeSymlink {
		if h.Mode, err = withoutList(file, h.Mode); err != nil {
			return nil, false, err
		}
	}
	h.PAXRecords, opaque, err = xattrRecords(file)
	return h, opaque, err
}

// withoutList is the mode that a file has when its access list is gone and
// nobody is let in by that. What the list gives the group is not looked at: in a
// user namespace it cannot be read through fuse2fs, and root's layer is to be the
// user's.
func withoutList(file string, mode int64) (int64, error) {
	names, err := listXattrs(file)
	if slices.Contains(names, accessLists[0]) {
		mode &^= 0o070
	}
	return mode, err
}

// content copies a file and fails if it is not as long as its header says.
func (c *capture) content(file string, size int64) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(c.tw, io.LimitReader(f, size))
	if err == nil && n < size {
		err = fmt.Errorf("became shorter while it was read")
	}
	return err
}

func isWhiteout(fi fs.FileInfo, st *syscall.Stat_t) bool {
	return fi.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

func whiteoutName(name string) string {
	return path.Join(path.Dir(name), whiteoutPrefix+path.Base(name))
}

// clamp is the time an entry gets: whole seconds, not after epoch. The zero
// epoch clamps to 1970.
func clamp(t, epoch time.Time) time.Time {
	t = t.Truncate(time.Second)
	if epoch.IsZero() {
		epoch = time.Unix(0, 0)
	}
	if t.After(epoch) {
		return epoch
	}
	return t
}

func settle(file string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, file, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
