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
)

// Layout is where the root file system of an image is.
type Layout struct {
	Table     string `json:"table"`           // "gpt", "dos", or "" if the file system fills the disk
	Partition int    `json:"partition"`       // its number, or 0
	Offset    int64  `json:"offset"`          // bytes
	Size      int64  `json:"size"`            // bytes
	Kind      string `json:"kind"`            // of the file system: "ext", "btrfs" or "xfs"
	Flags     string `json:"flags,omitempty"` // options that it is mounted with
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

// Device is the root file system in a machine whose first disk this is.
func (l Layout) Device() string {
	if l.Partition == 0 {
		return "/dev/vda"
	}
	return fmt.Sprint("/dev/vda", l.Partition)
}

// Arguments are what a kernel is told of the root file system in a machine
// whose first disk this is.
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

// Guest tells whether only a kernel reads and writes the file system.
func (l Layout) Guest() bool { return l.Kind != ext }

// Driver is what a kernel calls the file system, filesystems(5).
func (l Layout) Driver() string {
	if l.Kind == ext {
		return "ext4" // it knows ext2 and ext3, too
	}
	return l.Kind
}

// UsedDisk is somebody else's image, as a raw copy.
type UsedDisk struct {
	f *os.File
	o Options
}

// OpenUsed copies an image into o.Work. What it says of other files is not
// followed: an image that needs them is refused, and so is one that is not
// whole.
func OpenUsed(ctx context.Context, file string, o Options) (*UsedDisk, error) {
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
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	return &UsedDisk{f, o}, err
}

// Close closes the copy.
func (d *UsedDisk) Close() error { return d.f.Close() }

// Root finds the root file system. The error is a [GuestError] where only a
// kernel can.
func (d *UsedDisk) Root(ctx context.Context) (*Layout, error) { return findRoot(ctx, d.f) }

// GrowExt mends a file system of type ext and grows it with its partition, if
// the options say so. root is a file that holds it alone.
func (d *UsedDisk) GrowExt(ctx context.Context, l *Layout) (root string, err error) {
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

// Write writes the disk to out as a qcow2 image that differences can be made
// to.
func (d *UsedDisk) Write(out *os.File) error { return FromRaw(out, d.f) }

// FromRaw writes what is in a file to out as a qcow2 image.
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

// errNoRoot is what [isRoot] says of a file system that is sound.
var errNoRoot = errors.New("its file system is no root: it has neither /etc/passwd nor /etc/os-release")

// soundWords are of what debugfs says of a file system that is sound: its version,
// and that a file is not there.
var soundWords = []string{"debugfs 1.", "File not found", "not a directory", "symbolic links"}

// isRoot tells whether a file system has what a root file system has. debugfs(8)
// exits with 0 whatever happens.
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
			if !slices.ContainsFunc(soundWords, func(w string) bool { return strings.Contains(line, w) }) {
				if strings.Contains(line, "unsupported feature") { // by this e2fsprogs
					return fmt.Errorf("its file system is newer than the tools here: debugfs: %s (a newer e2fsprogs reads it)", strings.TrimSpace(line))
				}
				return fmt.Errorf("its file system is damaged: debugfs: %s (e2fsck -f on a copy may mend it)", strings.TrimSpace(line))
			}
		}
	}
	return errNoRoot
}

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

func putBack(disk *os.File, root string, l *Layout) error {
	f, err := os.Open(root)
	if err != nil {
		return err
	}
	defer f.Close()
	return copySparse(disk, l.Offset, f, 0, l.Size)
}

// copySparse copies what differs from what is there.
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

// repair mends what an unclean end left: a journal that was not played back.
func repair(ctx context.Context, root string, o Options) error {
	cmd := exec.CommandContext(ctx, "e2fsck", "-f", "-p", root)
	cmd.Env = clockEnv(o.Epoch)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
		err = nil // it was repaired, e2fsck(8)
	}
	if err != nil {
		return fmt.Errorf("its file system is damaged: e2fsck: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// superblock reads that of the file system of type ext at a place, see kernel
// document filesystems/ext4.
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
