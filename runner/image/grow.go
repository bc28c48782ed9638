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
)

// Usable is at least how much of what is added to a file system of btrfs or xfs
// becomes free.
const Usable = 0.96

// Grow makes the disk and the root's partition as large as the options want,
// free being the bytes that are free in its file system and usable how much of
// what is added to it becomes free, and tells whether there is more room for it
// now. Partitions behind it are moved.
func (d *UsedDisk) Grow(ctx context.Context, l *Layout, free int64, usable float64) (bool, error) {
	fi, err := d.f.Stat()
	if err != nil {
		return false, err
	}
	more := d.o.Size - fi.Size()
	if d.o.Size == 0 {
		more = 0
		if lacks := d.o.Free - free; lacks > 0 {
			more = roundUp(int64(float64(lacks)/usable), mib) + 2*mib // of which it takes some anyhow
		}
	}
	if more < 0 {
		return false, fmt.Errorf("the disk is %d MiB and disk_size asks for less: it is not made smaller", fi.Size()/mib)
	}
	if more == 0 {
		return false, nil
	}
	var behind []Layout
	if l.Partition > 0 {
		if behind, err = partitionsBehind(ctx, d.f, l); err != nil {
			if d.o.Size == 0 {
				d.o.note("build_free_mb wishes for %d MiB more, and there are none: %v", more/mib, err)
				return false, nil
			}
			return false, fmt.Errorf("%w (leave disk_size out)", err)
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

// Resize makes the disk larger, and nothing that is on it.
func (d *UsedDisk) Resize(size int64) error {
	fi, err := d.f.Stat()
	if err != nil {
		return err
	}
	if size < fi.Size() {
		return fmt.Errorf("the disk is %d MiB, and %d MiB are asked for: it is not made smaller", fi.Size()/mib, size/mib)
	}
	return resize(d.f, size)
}

// partitionsBehind are those that lie behind another one, the last first.
func partitionsBehind(ctx context.Context, disk *os.File, l *Layout) ([]Layout, error) {
	all, err := readTable(ctx, disk)
	if err != nil {
		return nil, err
	}
	behind := slices.DeleteFunc(all, func(p Layout) bool { return p.Offset <= l.Offset })
	slices.SortFunc(behind, func(a, b Layout) int { return cmp.Compare(b.Offset, a.Offset) })
	if l.Table == "dos" && l.Partition > 4 {
		return nil, errors.New("its root is in a logical partition, which is not grown")
	}
	for _, p := range behind {
		if l.Table == "dos" && (p.Partition > 4 || p.Kind == extended) {
			return nil, fmt.Errorf("behind its root, partition %d, lies an extended one, which is not moved", l.Partition)
		}
	}
	return behind, nil
}

// growPartition moves the partitions behind one towards the end of the disk,
// the last of them first, and extends it up to them.
func growPartition(ctx context.Context, disk *os.File, l *Layout, behind []Layout, by int64) error {
	if l.Table == "gpt" {
		// The table's copy at the end moves with the end.
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

// moveUp moves what is at a place of a file by at least one MiB, and leaves
// zeros.
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
