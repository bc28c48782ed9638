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
)

// A file may have as many names as ext4 can count, and no more, wherever the
// tree lies; symbolic links are files of their own.
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
				if err == nil || !strings.Contains(err.Error(), "has more than 65000 names") {
					t.Errorf("%v", err)
				}
				return
			}
			check(t, err)
			toRaw(t, out.Name())
		})
	}
}

// A disk is made, however small, or what it needs is said: that much more is
// enough for it, and not much less.
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
					t.Fatalf("%d MiB are too small, and enough", size)
				}
				var missing int64
				if _, err := fmt.Sscanf(err.Error(), "the disk is too small for its files: %d MiB are missing (raise disk_size)", &missing); err != nil || missing < 1 {
					t.Fatalf("%d MiB: %v", size, err)
				}
				if over := size + missing - int64(least+4); over > 4 {
					t.Errorf("of %d MiB, %d are said to be missing: %d too many", size, missing, over)
				}
				file, err := make((size + missing) * mib)
				if err != nil {
					t.Fatalf("with the %d MiB that were missing: %v", missing, err)
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

// A machine that is to have little room is as small as it can be.
func TestLittleFreeSpace(t *testing.T) {
	need(t, "mke2fs", "e2fsck", "qemu-img")
	links := t.TempDir() // each takes a block
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

// A disk that the host has no file for says so.
func TestTooLargeADisk(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	check(t, err)
	defer f.Close()
	if err := resize(f, 1<<62); err == nil || !strings.Contains(err.Error(), "has no files as large as the disk, 4294967296 GiB (make it smaller") {
		t.Errorf("%v", err)
	}
}
