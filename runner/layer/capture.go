// Package layer turns directory trees into canonical archives and back.
//
// # The format
//
// A layer is the difference that a step makes to a file system, as a POSIX tar:
//
//   - Entries are sorted by path, a directory before its content.
//   - Owners are numbers.
//   - Extended attributes are PAX records SCHILY.xattr.NAME.
//   - Modification times are whole seconds, none later than a given time.
//   - A removed path is an empty file .wh.NAME. A replaced directory contains an empty
//     file .wh..wh..opq. These are the whiteouts of the OCI image specification.
//
// The same tree always gives the same bytes, so the digest of the bytes names the
// layer. The package knows neither the purpose of layers nor their storage.
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

	"meros/runner/hint"
)

// Whiteout names, OCI image specification, "Representing Changes".
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// Capture writes the tree below dir to w as a layer. If the tree is the upper
// directory of an overlay (mounted with userxattr), its removals become whiteouts.
// Entries newer than epoch get epoch as their time.
//
// With settle, Capture also makes the tree equal to the unpacked layer. It sets the
// times, and removes the sockets and attributes that layers lack.
func Capture(ctx context.Context, w io.Writer, dir string, epoch time.Time, settle bool) error {
	return (&capture{ctx: ctx, epoch: epoch, settle: settle}).tree(w, dir)
}

// CaptureSystem is [Capture] for a foreign root file system. It leaves out the device
// nodes, because a machine or sandbox makes its own.
//
// It returns the omissions. Labels of a security module are not among them: the host
// may have labelled all its files. For a file with an access list, the group
// bits of the mode limit everybody in the list, acl(5). They are cleared.
func CaptureSystem(ctx context.Context, w io.Writer, dir string, epoch time.Time) ([]Omission, error) {
	c := &capture{ctx: ctx, epoch: epoch, system: true}
	err := c.tree(w, dir)
	return c.omitted, err
}

// Omission counts the things of one kind that a layer cannot hold.
type Omission struct {
	What  string `json:"what"`            // the kind, in the plural
	First string `json:"first,omitempty"` // path of the first one
	Count int    `json:"count,omitempty"` // 0 if unknown
}

// accessLists lists the extended attributes of acl(5). Layers do not hold them: a
// directory of the host may give them to all files that are created in it.
var accessLists = []string{"system.posix_acl_access", "system.posix_acl_default"}

// omit counts an omission.
func (c *capture) omit(what, name string) {
	i := slices.IndexFunc(c.omitted, func(o Omission) bool { return o.What == what })
	if i < 0 {
		i, c.omitted = len(c.omitted), append(c.omitted, Omission{What: what, First: "/" + name})
	}
	c.omitted[i].Count++
}

// omitAttributes counts the access lists of a file.
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

// tree writes the whole tree.
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
	system  bool             // device nodes may exist, and are left out
	omitted []Omission       // with system
	top     string           // the tree of the entry, if there are several trees
	links   map[inode]string // first path of each inode with several names
}

// inode identifies a file of one of several trees. Names in different trees are never
// hard links of each other.
type inode struct {
	top      string
	dev, ino uint64
}

// dir writes the content of a directory, after the caller has written the entry of the
// directory itself. The root has no entry: a layer does not describe it.
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

// entry writes one file and, for a directory, its content.
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
		return errWhiteoutName
	}
	if c.system {
		if err := c.omitAttributes(name, file); err != nil {
			return err
		}
	}
	h, opaque, err := c.header(name, file, fi, st)
	if err == nil && h == nil && c.settle {
		return os.Remove(file) // the layer does not contain it
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

// errWhiteoutName refuses a file whose name means something else in a layer.
var errWhiteoutName = hint.Add(errors.New("a name that begins with .wh. means a removal in a layer"), "rename it")

// header describes one entry. It returns nil for sockets, which layers leave out: they
// are useless without the listening process.
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
		return nil, false, hint.Add(errors.New("a layer cannot hold a device node: unpacked, it would be a device of that host"), "remove it; devtmpfs makes a machine's device nodes")
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

// withoutList returns the mode of a file without its access list, such that nobody
// gains access. It ignores the group's entry in the list. fuse2fs does not show the
// entry in a user namespace, and root must get the same layer as a user.
func withoutList(file string, mode int64) (int64, error) {
	names, err := listXattrs(file)
	if slices.Contains(names, accessLists[0]) {
		mode &^= 0o070
	}
	return mode, err
}

// content copies a file. It fails if the file is shorter than its header says.
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

// isWhiteout reports whether a file stands for a removed path in an overlay.
func isWhiteout(fi fs.FileInfo, st *syscall.Stat_t) bool {
	return fi.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

// whiteoutName returns the name of the entry that removes name.
func whiteoutName(name string) string {
	return path.Join(path.Dir(name), whiteoutPrefix+path.Base(name))
}

// clamp returns the time of an entry: whole seconds, not after epoch. The zero epoch
// clamps to 1970.
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

// settle sets the times of a file.
func settle(file string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, file, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
