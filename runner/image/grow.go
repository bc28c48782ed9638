// This file makes foreign disks and their root partitions larger. Growing the file
// system itself is up to resize2fs or the guest's kernel.

package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"meros/runner/hint"
)

// Usable is the least share of added bytes that becomes free space in btrfs and xfs.
const Usable = 0.96

// Grow makes the disk and the root partition as large as the options ask for. It
// moves the partitions behind the root, and reports whether the partition grew.
//
// free is the free space of the root file system in bytes. usable is the share of
// added bytes that becomes free space.
func (d *ForeignDisk) Grow(ctx context.Context, l *Layout, free int64, usable float64) (bool, error) {
	fi, err := d.f.Stat()
	if err != nil {
		return false, err
	}
	more := d.o.Size - fi.Size()
	if d.o.Size == 0 {
		more = 0
		if lacks := d.o.Free - free; lacks > 0 {
			more = roundUp(int64(float64(lacks)/usable), mib) + 2*mib // the file system takes some of it
		}
	}
	if more < 0 {
		return false, fmt.Errorf("the disk has %d MiB, and disk_size cannot make it smaller", fi.Size()/mib)
	}
	if more == 0 {
		return false, nil
	}
	var behind []Layout
	if l.Partition > 0 {
		if behind, err = partitionsBehind(ctx, d.f, l); err != nil {
			if d.o.Size == 0 {
				d.o.note("build_free_mb asks for %d MiB more, but the root partition cannot grow: %v", more/mib, err)
				return false, nil
			}
			return false, hint.Add(err, "leave `disk_size` out")
		}
	}
	if err := resize(d.f, fi.Size()+more); err != nil {
		return false, err
	}
	if l.Partition == 0 {
		l.Size += more
		return true, nil
	}
	return true, growPartition(ctx, d.f, l, behind, more/mib*mib)
}

// Resize makes the disk larger, but not its partitions and file systems.
func (d *ForeignDisk) Resize(size int64) error {
	fi, err := d.f.Stat()
	if err != nil {
		return err
	}
	if size < fi.Size() {
		return fmt.Errorf("the disk has %d MiB and cannot be made smaller (to %d MiB)", fi.Size()/mib, size/mib)
	}
	return resize(d.f, size)
}

// partitionsBehind returns the partitions behind another one, the last first. It
// refuses tables whose extended partition would have to move.
func partitionsBehind(ctx context.Context, disk *os.File, l *Layout) ([]Layout, error) {
	all, err := readTable(ctx, disk)
	if err != nil {
		return nil, err
	}
	behind := slices.DeleteFunc(all, func(p Layout) bool { return p.Offset <= l.Offset })
	slices.SortFunc(behind, func(a, b Layout) int { return cmp.Compare(b.Offset, a.Offset) })
	if l.Table == "dos" && l.Partition > 4 {
		return nil, errors.New("the root is in a logical partition, which cannot grow")
	}
	for _, p := range behind {
		if l.Table == "dos" && (p.Partition > 4 || p.Kind == extended) {
			return nil, fmt.Errorf("behind the root, partition %d, lies an extended partition, which cannot be moved", l.Partition)
		}
	}
	return behind, nil
}

// growPartition moves the partitions behind one towards the end of the disk, and
// extends it up to them. behind lists the last partition first.
func growPartition(ctx context.Context, disk *os.File, l *Layout, behind []Layout, by int64) error {
	if l.Table == "gpt" {
		// The backup table belongs at the end of the disk.
		if err := run(exec.CommandContext(ctx, "sfdisk", "--no-reread", "--no-tell-kernel", "--relocate", "gpt-bak-std", disk.Name())); err != nil {
			return err
		}
	}
	if by == 0 {
		behind = nil
	}
	for _, p := range behind {
		if err := moveUp(disk, p.Offset, p.Size, by); err != nil {
			return fmt.Errorf("move partition %d: %w", p.Partition, err)
		}
		if err := setPartition(ctx, disk, p.Partition, fmt.Sprintf("start=%d, size=%d", (p.Offset+by)/sector, p.Size/sector)); err != nil {
			return fmt.Errorf("move partition %d: %w", p.Partition, err)
		}
	}
	if err := setPartition(ctx, disk, l.Partition, ", +"); err != nil {
		return err
	}
	t, err := readTable(ctx, disk)
	if err != nil {
		return err
	}
	for _, p := range t {
		if p.Partition == l.Partition {
			l.Offset, l.Size = p.Offset, p.Size
		}
	}
	return nil
}

// setPartition changes one line of the table, sfdisk(8).
func setPartition(ctx context.Context, disk *os.File, number int, line string) error {
	cmd := exec.CommandContext(ctx, "sfdisk", "--no-reread", "--no-tell-kernel", "-N", strconv.Itoa(number), disk.Name())
	cmd.Stdin = strings.NewReader(line + "\n")
	return run(cmd)
}

// moveUp moves size bytes of a file up by at least one MiB, and zeroes the place that
// they leave. It copies the last bytes first, because the two places may overlap.
func moveUp(f *os.File, at, size, by int64) error {
	for end := size; end > 0; {
		n := min(mib, end)
		end -= n
		if err := copySparse(f, at+by+end, f, at+end, n); err != nil {
			return err
		}
	}
	zero, err := os.Open("/dev/zero")
	if err != nil {
		return err
	}
	defer zero.Close()
	return copySparse(f, at, zero, 0, min(by, size))
}
