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
)

// partition is one of a table, as sfdisk(8) prints it.
type partition struct {
	Node        string
	Start, Size int64 // sectors
	Type        string
}

// lvm are the types of partitions that hold volumes of LVM.
var lvm = []string{"8e", "E6D6D379-F507-44C2-A23C-238F2A3DF928"}

// extended is the kind of a partition of others, by these types.
const extended = "extended"

var extendedTypes = []string{"5", "f", "85"}

// ext is the kind of ext2, ext3 and ext4.
const ext = "ext"

// guestKinds are the file systems that a kernel is asked for.
var guestKinds = []string{"btrfs", "xfs"}

// GuestError says that there is no root file system that the host can read, and
// where there may be one that a kernel can.
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
	return fmt.Sprintf("it has no file system of type ext, but %s, which only the machine itself reads and writes (hooks: {in: vm} in the manifest has it do so)", strings.Join(all, " and "))
}

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
	return nil, fmt.Errorf("none of its partitions holds a root file system of type ext2, ext3, ext4, btrfs or xfs (%s)", strings.Join(found, ", "))
}

// readTable are the partitions of a disk and what is in them.
func readTable(ctx context.Context, disk *os.File) ([]Layout, error) {
	fi, err := disk.Stat()
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "sfdisk", "--json", disk.Name()).Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("sfdisk is not installed, which reads partition tables (Debian: apt install fdisk)")
	}
	var printed struct {
		PartitionTable struct {
			Label      string
			SectorSize int64 `json:"sectorsize"`
			Partitions []partition
		}
	}
	if err != nil || json.Unmarshal(out, &printed) != nil {
		return nil, errors.New("it has neither a file system nor a partition table that is known (is it empty?)")
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

func unopened(kind, what string) error {
	return fmt.Errorf("%s holds %s, which is not opened here (copy its root file system into a plain partition)", what, kind)
}

// fileSystem tells what begins at a place by its magic number: of ext, kernel
// document filesystems/ext4; of the others, their own.
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
