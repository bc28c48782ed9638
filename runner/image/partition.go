// This file finds the root file system of a foreign disk. It reads partition tables
// with sfdisk and recognizes file systems by magic number.

package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"meros/runner/hint"
)

// partition is one entry of a partition table, as sfdisk(8) prints it.
type partition struct {
	Node        string
	Start, Size int64 // sectors
	Type        string
}

// lvm lists the types of partitions that hold LVM volumes.
var lvm = []string{"8e", "E6D6D379-F507-44C2-A23C-238F2A3DF928"}

// extended is the kind of a partition that contains the logical ones.
const extended = "extended"

var extendedTypes = []string{"5", "f", "85"}

// ext is the kind of ext2, ext3 and ext4.
const ext = "ext"

// guestKinds lists the file systems that only a guest's kernel reads.
var guestKinds = []string{"btrfs", "xfs"}

// GuestError says that the host cannot read a root file system of the disk. A guest's
// kernel may find one in Candidates.
type GuestError struct{ Candidates []Layout }

// Error implements error.
func (e *GuestError) Error() string {
	var all []string
	for _, l := range e.Candidates {
		if l.Partition > 0 {
			all = append(all, fmt.Sprintf("%s in partition %d", l.Kind, l.Partition))
		} else {
			all = append(all, l.Kind)
		}
	}
	return fmt.Sprintf("no file system of type ext, but %s, which only the machine's own kernel reads and writes", strings.Join(all, " and "))
}

// Hint returns the next step, see package hint.
func (e *GuestError) Hint() string { return "set `hooks: {in: vm}` in the manifest" }

// findRoot looks for the file system that has /etc/passwd or /etc/os-release.
func findRoot(ctx context.Context, disk *os.File) (*Layout, error) {
	fi, err := disk.Stat()
	if err != nil {
		return nil, err
	}
	switch l := (&Layout{Size: fi.Size(), Kind: fileSystem(disk, 0)}); {
	case l.Kind == ext:
		return l, isRoot(ctx, disk.Name(), l)
	case slices.Contains(guestKinds, l.Kind):
		return nil, &GuestError{[]Layout{*l}}
	case l.Kind != "":
		return nil, unopened(l.Kind, "the disk")
	}
	table, err := readTable(ctx, disk)
	if err != nil {
		return nil, err
	}
	var found []string
	var damage error
	guest := new(GuestError)
	for _, l := range table {
		if l.Kind == ext {
			err := isRoot(ctx, disk.Name(), &l)
			if err == nil {
				return &l, nil
			}
			if l.Kind = "ext without /etc"; !errors.Is(err, errNoRoot) {
				damage = errors.Join(damage, fmt.Errorf("partition %d: %w", l.Partition, err))
			}
		}
		if slices.Contains(guestKinds, l.Kind) {
			guest.Candidates = append(guest.Candidates, l)
		}
		found = append(found, fmt.Sprintf("%d: %s", l.Partition, cmp.Or(l.Kind, "unknown")))
	}
	if len(guest.Candidates) > 0 {
		return nil, guest
	}
	if damage != nil {
		return nil, damage
	}
	for _, kind := range []string{"LVM", "LUKS"} {
		if slices.ContainsFunc(table, func(l Layout) bool { return l.Kind == kind }) {
			return nil, unopened(kind, "a partition")
		}
	}
	return nil, fmt.Errorf("no partition holds a root file system of type ext2, ext3, ext4, btrfs or xfs (%s)", strings.Join(found, ", "))
}

// readTable returns the partitions of a disk, with the kind of their content.
func readTable(ctx context.Context, disk *os.File) ([]Layout, error) {
	fi, err := disk.Stat()
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "sfdisk", "--json", disk.Name()).Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, notInstalled("sfdisk", "reads partition tables", "fdisk")
	}
	var printed struct {
		PartitionTable struct {
			Label      string
			SectorSize int64 `json:"sectorsize"`
			Partitions []partition
		}
	}
	if err != nil || json.Unmarshal(out, &printed) != nil {
		return nil, hint.Add(errors.New("neither a file system nor a partition table that meros knows"), "check that the image is not empty")
	}
	t := printed.PartitionTable
	size := cmp.Or(t.SectorSize, sector)
	var all []Layout
	for _, p := range t.Partitions {
		number, err := strconv.Atoi(p.Node[len(strings.TrimRight(p.Node, "0123456789")):])
		l := Layout{Table: t.Label, Partition: number, Offset: p.Start * size, Size: p.Size * size}
		if err != nil || l.Offset < 0 || l.Size <= 0 || l.Offset+l.Size > fi.Size() {
			return nil, fmt.Errorf("partition %s is not within the disk", p.Node)
		}
		switch l.Kind = fileSystem(disk, l.Offset); {
		case slices.Contains(lvm, p.Type):
			l.Kind = "LVM"
		case t.Label == "dos" && slices.Contains(extendedTypes, p.Type):
			l.Kind = extended
		}
		all = append(all, l)
	}
	return all, nil
}

// unopened refuses a disk or a partition whose content meros cannot read.
func unopened(kind, place string) error {
	return hint.Add(fmt.Errorf("%s holds %s, which meros cannot open", place, kind), "copy its root file system into a plain partition")
}

// fileSystem returns the kind of the file system at a place, by its magic number, or
// "". The number of ext is in the kernel document filesystems/ext4.
func fileSystem(r io.ReaderAt, at int64) string {
	for kind, magic := range map[string]struct {
		at   int64
		text string
	}{
		ext: {0x438, "\x53\xef"}, "xfs": {0, "XFSB"}, "btrfs": {0x10040, "_BHRfS_M"}, "LUKS": {0, "LUKS\xba\xbe"}, "LVM": {512, "LABELONE"},
	} {
		b := make([]byte, len(magic.text))
		if _, err := r.ReadAt(b, at+magic.at); err == nil && string(b) == magic.text {
			return kind
		}
	}
	return ""
}
