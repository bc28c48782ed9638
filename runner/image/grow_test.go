// This file tests that foreign disks grow.

package image

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/runner/hint"
)

// A root partition grows whether or not others lie behind it. Those keep their
// content, number, type and identifiers.
func TestGrowMovesPartitionsBehind(t *testing.T) {
	need(t, "mke2fs", "e2fsck", "resize2fs", "qemu-img", "sfdisk")
	for _, test := range []struct {
		name, table string
		size        int64
	}{
		{"gpt, by less than they have", "label: gpt\n2048,131072,L\n,20480,U\n,40960,S\n", 103 * mib},
		{"gpt, by more", "label: gpt\n2048,131072,L\n,20480,U\n,40960,S\n", 300 * mib},
		{"mbr", "label: dos\n2048,131072,83\n,20480,c\n,40960,82\n", 300 * mib},
	} {
		t.Run(test.name, func(t *testing.T) {
			file, random := partitioned(t, test.table)
			d := foreignDisk(t, file, test.size)
			before, err := readTable(t.Context(), d.f)
			check(t, err)
			ids := output(t, "sfdisk", "--dump", d.f.Name())
			l, err := d.Root(t.Context())
			check(t, err)
			root, err := d.GrowExt(t.Context(), l)
			check(t, err)
			output(t, "e2fsck", "-fn", root)
			output(t, "sfdisk", "--verify", d.f.Name())
			after, err := readTable(t.Context(), d.f)
			check(t, err)
			by := (test.size - 100*mib) / mib * mib
			if after[0].Offset != before[0].Offset || after[0].Size != before[0].Size+by || l.Size != after[0].Size {
				t.Errorf("the root was %+v and is %+v, %+v", before[0], after[0], l)
			}
			for i := 1; i < 3; i++ {
				if after[i].Partition != i+1 || after[i].Size != before[i].Size || after[i].Offset != before[i].Offset+by {
					t.Errorf("the partition was %+v and is %+v", before[i], after[i])
				}
			}
			got := make([]byte, len(random))
			if _, err := d.f.ReadAt(got, after[1].Offset); err != nil || !bytes.Equal(got, random) {
				t.Errorf("the content of partition 2 has changed, %v", err)
			}
			if now := output(t, "sfdisk", "--dump", d.f.Name()); identities(now) != identities(ids) {
				t.Errorf("the partitions were\n%s\nand are\n%s", ids, now)
			}
		})
	}
	for _, want := range []int64{200 * mib, 700 * mib} {
		t.Run(fmt.Sprintf("%d MiB free", want/mib), func(t *testing.T) {
			file, _ := partitioned(t, "label: gpt\n2048,131072,L\n,20480,U\n")
			d := foreignDisk(t, file, 0)
			d.o.Free = want
			l, err := d.Root(t.Context())
			check(t, err)
			root, err := d.GrowExt(t.Context(), l)
			check(t, err)
			output(t, "e2fsck", "-fn", root)
			sb, err := superblock(root, 0)
			check(t, err)
			r, err := readFreeSpace(sb)
			if free := r.freeBlocks * r.block; err != nil || free < want || free > want+want/8 {
				t.Errorf("%d MiB are free, %v", free/mib, err)
			}
		})
	}
	t.Run("logical", func(t *testing.T) {
		const table = "label: dos\n2048,131072,83\n,,5\n,20480,83\n"
		file, _ := partitioned(t, table)
		d := foreignDisk(t, file, 300*mib)
		l, err := d.Root(t.Context())
		check(t, err)
		if _, err := d.GrowExt(t.Context(), l); err == nil || !strings.HasSuffix(err.Error(), "an extended partition, which cannot be moved") || hint.Of(err) != "leave `disk_size` out" {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
		var said strings.Builder
		d = foreignDisk(t, file, 0)
		d.o.Free, d.o.Log = 200*mib, &said
		if _, err := d.GrowExt(t.Context(), l); err != nil {
			t.Errorf("without disk_size: %v", err)
		}
		if !strings.HasPrefix(said.String(), "note: build_free_mb asks for 1") || !strings.HasSuffix(said.String(), "an extended partition, which cannot be moved\n") {
			t.Errorf("the note is %q", said.String())
		}
	})
}

// identities returns the parts of an sfdisk dump that are not positions and sizes.
func identities(dump string) string {
	var b strings.Builder
	for line := range strings.Lines(dump) {
		if _, about, ok := strings.Cut(line, "type="); ok {
			b.WriteString("type=" + about)
		} else if strings.HasPrefix(line, "label") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func foreignDisk(t *testing.T, file string, size int64) *ForeignDisk {
	t.Helper()
	d, err := OpenForeign(t.Context(), file, Options{Work: t.TempDir(), Size: size})
	check(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// partitioned makes a disk of 100 MiB with a root in its first partition and random
// bytes in the second.
func partitioned(t *testing.T, table string) (file string, random []byte) {
	t.Helper()
	dir := t.TempDir()
	tree, file := filepath.Join(dir, "tree"), filepath.Join(dir, "disk.raw")
	check(t, os.MkdirAll(filepath.Join(tree, "etc"), 0o755))
	check(t, os.WriteFile(filepath.Join(tree, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\n"), 0o644))
	f, err := os.Create(file)
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(100*mib))
	cmd := exec.Command("sfdisk", "-q", file)
	cmd.Stdin = strings.NewReader(table)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	output(t, "mke2fs", "-q", "-t", "ext4", "-E", fmt.Sprint("offset=", mib), "-d", tree, file, "65536k")
	all, err := readTable(t.Context(), f)
	check(t, err)
	random = randomBytes(int(all[1].Size))
	if all[1].Kind != extended {
		_, err = f.WriteAt(random, all[1].Offset)
		check(t, err)
	}
	return file, random
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}
