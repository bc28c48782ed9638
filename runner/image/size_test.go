// This file tests how large a disk has to be.

package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"meros/bench/lab"
	"meros/runner/hint"
)

// A file may have as many names as ext4 can count, but no more, wherever the tree is.
// Symbolic links are separate files.
func TestManyLinks(t *testing.T) {
	lab.NeedRoot(t)
	need(t, "mke2fs", "e2fsck", "qemu-img")
	const all, each = 100_000, 1000
	for name, test := range map[string]struct {
		links int
		link  func(old, new string) error
		fails bool
	}{
		"most":     {maxLinks, os.Link, false},
		"too many": {all, os.Link, true},
		"symbolic": {all, os.Symlink, false},
	} {
		t.Run(name, func(t *testing.T) {
			tree := lab.InMemory(t)
			first := filepath.Join(tree, "0/f")
			check(t, os.Mkdir(filepath.Dir(first), 0o755))
			check(t, os.WriteFile(first, []byte("x"), 0o644))
			for i := 1; i < test.links; i++ {
				dir := filepath.Join(tree, fmt.Sprint(i/each))
				if i%each == 0 {
					check(t, os.Mkdir(dir, 0o755))
				}
				check(t, test.link(first, filepath.Join(dir, fmt.Sprint(i))))
			}
			out, err := os.Create(filepath.Join(t.TempDir(), "x"))
			check(t, err)
			defer out.Close()
			err = FromTree(t.Context(), out, tree, options(t))
			if test.fails {
				if err == nil || !strings.Contains(err.Error(), "more than 65000 names (hard links) of one file") {
					t.Errorf("%v", err)
				}
				return
			}
			check(t, err)
			toRaw(t, out.Name())
		})
	}
}

// FromTree makes small disks, or reports how much is missing. The reported size is
// enough, and not much too large.
func TestTooSmallADiskSaysByHowMuch(t *testing.T) {
	need(t, "mke2fs", "e2fsck", "qemu-img")
	manyLinks := t.TempDir()
	for i := range 500 {
		check(t, os.Symlink(strings.Repeat("long", 20), filepath.Join(manyLinks, fmt.Sprintf("%s%d", strings.Repeat("n", 200), i))))
	}
	large := t.TempDir()
	check(t, os.WriteFile(filepath.Join(large, "large"), bytes.Repeat([]byte("x"), 30*mib), 0o644))
	for name, tree := range map[string]string{"files": sampleTree(t, false), "links": manyLinks, "large": large, "nothing": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			make := func(size int64) (string, error) {
				o := options(t)
				o.Size = size
				out, err := os.Create(filepath.Join(t.TempDir(), "x"))
				check(t, err)
				defer out.Close()
				return out.Name(), FromTree(t.Context(), out, tree, o)
			}
			least := sort.Search(160, func(i int) bool { _, err := make(int64(i+4) * mib); return err == nil })
			for _, size := range []int64{6, int64(least) + 3} {
				_, err := make(size * mib)
				if err == nil {
					t.Fatalf("%d MiB are enough, want too small", size)
				}
				var missing int64
				if _, serr := fmt.Sscanf(err.Error(), "the disk is too small for its files: %d MiB are missing", &missing); serr != nil || missing < 1 || hint.Of(err) != "raise `disk_size` by that much" {
					t.Fatalf("%d MiB: %v, %v, hint %q", size, err, serr, hint.Of(err))
				}
				if over := size + missing - int64(least+4); over > 4 {
					t.Errorf("with %d MiB, %d are reported missing: %d too many", size, missing, over)
				}
				file, err := make((size + missing) * mib)
				if err != nil {
					t.Fatalf("with the missing %d MiB: %v", missing, err)
				}
				toRaw(t, file)
			}
			for size := int64(least + 4); size < 140; size += 29 {
				if _, err := make(size * mib); err != nil {
					t.Errorf("%d MiB: %v", size, err)
				}
			}
		})
	}
}

// A machine that asks for little free space gets the smallest possible disk.
func TestLittleFreeSpace(t *testing.T) {
	need(t, "mke2fs", "e2fsck", "qemu-img")
	links := t.TempDir() // each needs a block
	for i := range 4000 {
		dir := filepath.Join(links, fmt.Sprint(i/100))
		check(t, errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(strings.Repeat("long", 20), filepath.Join(dir, fmt.Sprint(i)))))
	}
	for name, tree := range map[string]string{"files": sampleTree(t, false), "links": links} {
		for _, free := range []int64{0, 10} {
			o := options(t)
			o.Free = free * mib
			out, err := os.Create(filepath.Join(t.TempDir(), "x"))
			check(t, err)
			defer out.Close()
			if err := FromTree(t.Context(), out, tree, o); err != nil {
				t.Errorf("%s, %d MiB free: %v", name, free, err)
				continue
			}
			toRaw(t, out.Name())
		}
	}
}

// A disk larger than any file of the host gives a clear error.
func TestTooLargeADisk(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	check(t, err)
	defer f.Close()
	if err := resize(f, 1<<62); err == nil || !strings.Contains(err.Error(), "cannot hold a file as large as the disk, 4294967296 GiB") || !strings.HasPrefix(hint.Of(err), "make the disk smaller") {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}
