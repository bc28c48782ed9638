// This file opens foreign images, which meros did not make: it copies them, finds and
// repairs their root file system, and grows it.

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"meros/runner/hint"
)

// Layout says where the root file system of an image is.
type Layout struct {
	Table     string `json:"table"`           // "gpt", "dos", or "" if the file system fills the disk
	Partition int    `json:"partition"`       // its number, or 0
	Offset    int64  `json:"offset"`          // bytes
	Size      int64  `json:"size"`            // bytes
	Kind      string `json:"kind"`            // of the file system: "ext", "btrfs" or "xfs"
	Flags     string `json:"flags,omitempty"` // mount options
}

// ReadLayout reads the JSON file that describes a layout.
func ReadLayout(file string) (*Layout, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	l := new(Layout)
	return l, json.Unmarshal(b, l)
}

// Device returns the root's device in a machine whose first disk this is.
func (l Layout) Device() string {
	if l.Partition == 0 {
		return "/dev/vda"
	}
	return fmt.Sprint("/dev/vda", l.Partition)
}

// Arguments returns the kernel arguments that describe the root file system, for a
// machine whose first disk this is.
func (l Layout) Arguments() string {
	a := "root=" + l.Device()
	if l.Guest() {
		a += " rootfstype=" + l.Kind
	}
	if l.Flags != "" {
		a += " rootflags=" + l.Flags
	}
	return a
}

// Guest reports whether only a guest's kernel reads and writes the file system.
func (l Layout) Guest() bool { return l.Kind != ext }

// Driver returns the kernel's name of the file system, filesystems(5).
func (l Layout) Driver() string {
	if l.Kind == ext {
		return "ext4" // this driver handles ext2 and ext3, too
	}
	return l.Kind
}

// ForeignDisk is a raw copy of an image that meros did not make.
type ForeignDisk struct {
	f *os.File
	o Options
}

// OpenForeign copies an image into o.Work. It never follows references to other
// files: it refuses images that need them, and damaged or truncated images.
func OpenForeign(ctx context.Context, file string, o Options) (*ForeignDisk, error) {
	format, err := formatOf(file)
	if err != nil {
		return nil, err
	}
	if err := selfContained(ctx, file, format); err != nil {
		return nil, err
	}
	if err := undamaged(ctx, file, format); err != nil {
		return nil, err
	}
	raw := filepath.Join(o.Work, "disk.raw")
	if err := run(exec.CommandContext(ctx, "qemu-img", "convert", "-f", format, "-O", "raw", file, raw)); err != nil {
		return nil, fmt.Errorf("copy the image: %w", err)
	}
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	return &ForeignDisk{f, o}, err
}

// Close closes the copy.
func (d *ForeignDisk) Close() error { return d.f.Close() }

// Root finds the root file system. The error is a [GuestError] if only a guest's
// kernel can find it.
func (d *ForeignDisk) Root(ctx context.Context) (*Layout, error) { return findRoot(ctx, d.f) }

// GrowExt repairs a file system of type ext, and grows it and its partition if the
// options ask for more space. It returns a file that holds only the file system.
func (d *ForeignDisk) GrowExt(ctx context.Context, l *Layout) (root string, err error) {
	root = filepath.Join(d.o.Work, "root.raw")
	if err := extract(root, d.f, l); err != nil {
		return "", err
	}
	if err := repair(ctx, root, d.o); err != nil {
		return "", err
	}
	sb, err := superblock(root, 0)
	if err != nil {
		return "", err
	}
	r, err := readFreeSpace(sb)
	if err != nil {
		return "", err
	}
	grown, err := d.Grow(ctx, l, r.freeBlocks*r.block, r.usable())
	if err != nil {
		return "", err
	}
	if grown {
		if err := os.Truncate(root, l.Size); err != nil {
			return "", err
		}
		cmd := exec.CommandContext(ctx, "resize2fs", root)
		cmd.Env = clockEnv(d.o.Epoch)
		if err := run(cmd); err != nil {
			return "", err
		}
	}
	return root, putBack(d.f, root, l)
}

// Write writes the disk to out as a qcow2 image, which [Delta] accepts as a base.
func (d *ForeignDisk) Write(out *os.File) error { return FromRaw(out, d.f) }

// FromRaw writes a raw disk to out as a qcow2 image.
func FromRaw(out, raw *os.File) error {
	fi, err := raw.Stat()
	if err != nil {
		return err
	}
	clusters, err := rawClusters(raw, fi.Size())
	if err != nil {
		return err
	}
	return writeQcow2(out, fi.Size(), clusters, "")
}

// errNoRoot is the error of [isRoot] for an undamaged file system.
var errNoRoot = errors.New("not a root file system: it has neither /etc/passwd nor /etc/os-release")

// harmless lists parts of the messages that debugfs prints about undamaged file
// systems: its version, and that a file does not exist.
var harmless = []string{"debugfs 1.", "File not found", "not a directory", "symbolic links"}

// isRoot returns nil for a root file system, errNoRoot for another one, and further
// errors for one that debugfs cannot read. debugfs(8) always exits with 0.
func isRoot(ctx context.Context, raw string, l *Layout) error {
	for _, name := range []string{"/etc/passwd", "/etc/os-release"} {
		var said bytes.Buffer
		cmd := exec.CommandContext(ctx, "debugfs", "-R", "stat "+name, fmt.Sprintf("%s?offset=%d", raw, l.Offset))
		cmd.Env, cmd.Stderr = clockEnv(formatted), &said
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("debugfs: %w: %s", err, strings.TrimSpace(said.String()))
		}
		if strings.Contains(string(out), "Inode:") {
			return nil
		}
		for line := range strings.Lines(said.String()) {
			if !slices.ContainsFunc(harmless, func(w string) bool { return strings.Contains(line, w) }) {
				if strings.Contains(line, "unsupported feature") {
					return hint.Add(fmt.Errorf("the file system is newer than this e2fsprogs: debugfs: %s", strings.TrimSpace(line)), "a newer e2fsprogs reads it")
				}
				return hint.Add(fmt.Errorf("damaged file system: debugfs: %s", strings.TrimSpace(line)), "`e2fsck -f` on a copy may repair it")
			}
		}
	}
	return errNoRoot
}

// extract copies the file system out of the disk into the file root.
func extract(root string, disk *os.File, l *Layout) error {
	f, err := os.Create(root)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(l.Size); err != nil {
		return err
	}
	return errors.Join(copySparse(f, 0, disk, l.Offset, l.Size), f.Close())
}

// putBack copies the file system in the file root back into the disk.
func putBack(disk *os.File, root string, l *Layout) error {
	f, err := os.Open(root)
	if err != nil {
		return err
	}
	defer f.Close()
	return copySparse(disk, l.Offset, f, 0, l.Size)
}

// copySparse copies size bytes, and writes only the blocks that differ.
func copySparse(to *os.File, at int64, from *os.File, begin, size int64) error {
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for done := int64(0); done < size; {
		n := int(min(int64(len(a)), size-done))
		if _, err := from.ReadAt(a[:n], begin+done); err != nil && err != io.EOF {
			return err
		}
		if m, err := to.ReadAt(b[:n], at+done); err != nil && err != io.EOF {
			return err
		} else {
			clear(b[m:n])
		}
		if !bytes.Equal(a[:n], b[:n]) {
			if _, err := to.WriteAt(a[:n], at+done); err != nil {
				return err
			}
		}
		done += int64(n)
	}
	return nil
}

// repair replays the journal that an unclean shutdown left, and fixes what e2fsck(8)
// can fix without questions.
func repair(ctx context.Context, root string, o Options) error {
	cmd := exec.CommandContext(ctx, "e2fsck", "-f", "-p", root)
	cmd.Env = clockEnv(o.Epoch)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
		err = nil // it was repaired, e2fsck(8)
	}
	if err != nil {
		return fmt.Errorf("damaged file system: e2fsck: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// superblock reads the superblock of the ext file system at an offset, bytes, see
// kernel document filesystems/ext4.
func superblock(file string, at int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sb := make([]byte, superblockSize)
	_, err = f.ReadAt(sb, at+superblockOffset)
	return sb, err
}
