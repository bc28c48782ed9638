package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Layout is where the root file system of an image is.
type Layout struct {
	Table     string `json:"table"`     // "gpt", "dos", or "" if the file system fills the disk
	Partition int    `json:"partition"` // its number, or 0
	Offset    int64  `json:"offset"`    // bytes
	Size      int64  `json:"size"`      // bytes
}

// Device is the root file system in a machine whose first disk this is.
func (l Layout) Device() string {
	if l.Partition == 0 {
		return "/dev/vda"
	}
	return fmt.Sprint("/dev/vda", l.Partition)
}

// Use writes somebody else's image to out as a qcow2 image that differences can
// be made to: grown, if o says so, with its partition and file system. root is
// a file in o.Work that holds the root file system alone. What the image says
// of other files is not followed: an image that needs them is refused.
func Use(ctx context.Context, out *os.File, file string, o Options) (l *Layout, root string, err error) {
	if err := selfContained(ctx, file); err != nil {
		return nil, "", err
	}
	raw := filepath.Join(o.Work, "disk.raw")
	if err := run(exec.CommandContext(ctx, "qemu-img", "convert", "-O", "raw", file, raw)); err != nil {
		return nil, "", fmt.Errorf("it cannot be read: %w", err)
	}
	disk, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		return nil, "", err
	}
	defer disk.Close()
	if l, err = findRoot(ctx, disk); err != nil {
		return nil, "", err
	}
	root = filepath.Join(o.Work, "root.raw")
	if err := extract(root, disk, l); err != nil {
		return nil, "", err
	}
	if err := repair(ctx, root, o); err != nil {
		return nil, "", err
	}
	if err := grow(ctx, disk, root, l, o); err != nil {
		return nil, "", err
	}
	if err := putBack(disk, root, l); err != nil {
		return nil, "", err
	}
	fi, err := disk.Stat()
	if err != nil {
		return nil, "", err
	}
	clusters, err := rawClusters(disk, fi.Size())
	if err != nil {
		return nil, "", err
	}
	return l, root, writeQcow2(out, fi.Size(), clusters, "")
}

// selfContained refuses images that are encrypted or whose content is in other
// files too.
func selfContained(ctx context.Context, file string) error {
	cmd := exec.CommandContext(ctx, "qemu-img", "info", "--output=json", file)
	var said bytes.Buffer
	cmd.Stderr = &said
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("it is no image that QEMU can read: %s", strings.TrimSpace(said.String()))
	}
	var info struct {
		Backing   string `json:"backing-filename"`
		Encrypted bool   `json:"encrypted"`
		Specific  struct {
			Data map[string]any `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return err
	}
	switch {
	case info.Encrypted || info.Specific.Data["encrypt"] != nil:
		return errors.New("it is encrypted (qemu-img convert decrypts it, given the key)")
	case info.Backing != "":
		return fmt.Errorf("it is a difference to another file, %q, which is not followed (qemu-img convert -O qcow2 makes it one image)", info.Backing)
	case info.Specific.Data["data-file"] != nil:
		return fmt.Errorf("its data is in another file, %q, which is not followed (qemu-img convert -O qcow2 makes it one image)", info.Specific.Data["data-file"])
	}
	return nil
}

// partition is one of a table, as sfdisk(8) prints it.
type partition struct {
	Node        string
	Start, Size int64 // sectors
	Type        string
}

// lvm are the types of partitions that hold volumes of LVM.
var lvm = []string{"8e", "E6D6D379-F507-44C2-A23C-238F2A3DF928"}

// findRoot looks for the file system that has /etc/passwd or /etc/os-release.
func findRoot(ctx context.Context, disk *os.File) (*Layout, error) {
	fi, err := disk.Stat()
	if err != nil {
		return nil, err
	}
	if kind := fileSystem(disk, 0); kind == "ext" {
		l := &Layout{Size: fi.Size()}
		return l, isRoot(ctx, disk.Name(), l)
	} else if kind != "" {
		return nil, foreign(kind, "the disk")
	}
	out, err := exec.CommandContext(ctx, "sfdisk", "--json", disk.Name()).Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("sfdisk is not installed, which reads partition tables (Debian: apt install fdisk)")
	}
	var table struct {
		PartitionTable struct {
			Label      string
			SectorSize int64 `json:"sectorsize"`
			Partitions []partition
		}
	}
	if err != nil || json.Unmarshal(out, &table) != nil {
		return nil, errors.New("it has neither a file system nor a partition table that is known (is it empty?)")
	}
	t := table.PartitionTable
	if t.SectorSize == 0 {
		t.SectorSize = sector
	}
	var found []string
	for _, p := range t.Partitions {
		number, err := strconv.Atoi(p.Node[len(strings.TrimRight(p.Node, "0123456789")):])
		l := &Layout{t.Label, number, p.Start * t.SectorSize, p.Size * t.SectorSize}
		if err != nil || l.Offset < 0 || l.Size <= 0 || l.Offset+l.Size > fi.Size() {
			return nil, fmt.Errorf("partition %s is not within the disk", p.Node)
		}
		kind := fileSystem(disk, l.Offset)
		if slices.Contains(lvm, p.Type) {
			kind = "LVM"
		}
		if kind == "ext" {
			if isRoot(ctx, disk.Name(), l) == nil {
				return l, nil
			}
			kind = "ext without /etc"
		}
		if kind == "" {
			kind = "unknown"
		}
		found = append(found, fmt.Sprintf("%d: %s", number, kind))
	}
	for _, kind := range []string{"LVM", "LUKS", "btrfs", "xfs"} {
		if slices.ContainsFunc(found, func(f string) bool { return strings.HasSuffix(f, ": "+kind) }) {
			return nil, foreign(kind, "a partition")
		}
	}
	return nil, fmt.Errorf("none of its partitions holds a root file system of type ext2, ext3 or ext4 (%s)", strings.Join(found, ", "))
}

func foreign(kind, what string) error {
	if kind == "LVM" || kind == "LUKS" {
		return fmt.Errorf("%s holds %s, which is not opened here (copy its root file system into a plain partition)", what, kind)
	}
	return fmt.Errorf("%s holds a file system of type %s, and only ext2, ext3 and ext4 can be changed without starting the machine", what, kind)
}

// fileSystem tells what begins at a place by its magic number: of ext, kernel
// document filesystems/ext4; of the others, their own.
func fileSystem(r io.ReaderAt, at int64) string {
	for kind, magic := range map[string]struct {
		at   int64
		text string
	}{
		"ext": {0x438, "\x53\xef"}, "xfs": {0, "XFSB"}, "btrfs": {0x10040, "_BHRfS_M"}, "LUKS": {0, "LUKS\xba\xbe"}, "LVM": {512, "LABELONE"},
	} {
		b := make([]byte, len(magic.text))
		if _, err := r.ReadAt(b, at+magic.at); err == nil && string(b) == magic.text {
			return kind
		}
	}
	return ""
}

// isRoot tells whether a file system has what a root file system has.
func isRoot(ctx context.Context, raw string, l *Layout) error {
	for _, name := range []string{"/etc/passwd", "/etc/os-release"} {
		out, err := exec.CommandContext(ctx, "debugfs", "-R", "stat "+name, fmt.Sprintf("%s?offset=%d", raw, l.Offset)).Output()
		if err == nil && strings.Contains(string(out), "Inode:") {
			return nil
		}
	}
	return errors.New("its file system is no root: it has neither /etc/passwd nor /etc/os-release")
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

// grow gives the root file system room: up to the disk's wanted size, or for
// what is to be free.
func grow(ctx context.Context, disk *os.File, root string, l *Layout, o Options) error {
	fi, err := disk.Stat()
	if err != nil {
		return err
	}
	more := o.Size - fi.Size()
	if o.Size == 0 {
		free, err := freeIn(root)
		if err != nil {
			return err
		}
		more = roundUp(max(0, o.Free-free), mib)
	}
	if more < 0 {
		return fmt.Errorf("the disk is %d MiB and disk_size asks for less: it is not made smaller", fi.Size()/mib)
	}
	if more == 0 {
		return nil
	}
	if err := disk.Truncate(fi.Size() + more); err != nil {
		return err
	}
	if l.Partition == 0 {
		l.Size += more
	} else if err := growPartition(ctx, disk, l); err != nil {
		return err
	}
	if err := os.Truncate(root, l.Size); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "resize2fs", root)
	cmd.Env = clockEnv(o.Epoch)
	return run(cmd)
}

// growPartition extends a partition to the end of the disk, or to the one after
// it.
func growPartition(ctx context.Context, disk *os.File, l *Layout) error {
	if l.Table == "gpt" {
		// The table's copy at the end moves with the end.
		if err := run(exec.CommandContext(ctx, "sfdisk", "--no-reread", "--no-tell-kernel", "--relocate", "gpt-bak-std", disk.Name())); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "sfdisk", "--no-reread", "--no-tell-kernel", "-N", strconv.Itoa(l.Partition), disk.Name())
	cmd.Stdin = strings.NewReader(", +\n")
	if err := run(cmd); err != nil {
		return err
	}
	grown, err := findRoot(ctx, disk)
	if err == nil {
		*l = *grown
	}
	return err
}

// freeIn is how much of a file system is free, bytes: s_free_blocks_count of
// its superblock, kernel document filesystems/ext4.
func freeIn(root string) (int64, error) {
	f, err := os.Open(root)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sb := make([]byte, 1024)
	if _, err := f.ReadAt(sb, 1024); err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	blocks := int64(le.Uint32(sb[0x0C:]))
	if le.Uint32(sb[0x60:])&0x80 != 0 { // 64bit
		blocks |= int64(le.Uint32(sb[0x158:])) << 32
	}
	shift := le.Uint32(sb[0x18:])
	if shift > 6 || blocks < 0 || blocks > 1<<40 {
		return 0, errors.New("its superblock is damaged")
	}
	return blocks << (10 + shift), nil
}
