package bench

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/constellations"
	"meros/runner/debian"
)

// BenchmarkBootstrap makes a base system of bookworm from local packages:
// meros (the whole stage: the tree, its archive and its digest) against
// mmdebstrap and debootstrap, which leave a tree.
func BenchmarkBootstrap(b *testing.B) {
	p := program(b)
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		root := downloaded(b, p, machines(1))
		ours, _ := meros(b, p, root, "build", "lab", "--rootfs-only").stage("bootstrap")

		lock, err := constellations.ReadLock(filepath.Join(root, "constellations", "lab", "meros.lock"))
		if err != nil {
			b.Fatal(err)
		}
		section := lock.Section("bookworm", "x86_64", "")
		var debs []string
		for _, d := range section.Base {
			debs = append(debs, filepath.Join(root, "data", "cache", "cas", d.SHA256[:2], d.SHA256))
		}
		dir := b.TempDir()
		os.Chmod(dir, 0o755)
		archive := filepath.Join(dir, "archive")
		names, err := debian.LocalArchive(b.Context(), archive, "bookworm", "amd64", debs, section.Date)
		if err != nil {
			b.Fatal(err)
		}
		include := "--include=" + strings.Join(names, ",")
		mm := run(b, "mmdebstrap", "--quiet", "--mode=root", "--variant=essential", "--format=directory", include, "--skip=check/qemu",
			"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "bookworm", filepath.Join(dir, "mm"), "deb [trusted=yes] copy://"+archive+" bookworm main")
		de := run(b, "debootstrap", "--no-check-gpg", "--variant=minbase", include, "bookworm", filepath.Join(dir, "de"), "file://"+archive)
		s.add("s/meros", ours)
		s.add("s/mmdebstrap", mm.Seconds())
		s.add("s/debootstrap", de.Seconds())
		s.add("x/mmdebstrap", mm.Seconds()/ours)
		s.add("x/debootstrap", de.Seconds()/ours)
	}
}

// BenchmarkEdit changes one file in includes.chroot of a machine with an
// image of 200 MB. The peer is what a build without the chain does: make the
// whole file system and image anew.
func BenchmarkEdit(b *testing.B) {
	p := program(b)
	root := downloaded(b, p, machines(1))
	motd := filepath.Join(root, "constellations", "lab", "m0", "includes.chroot", "etc", "motd")
	write(b, motd, "0\n")
	meros(b, p, root, "build", "lab")
	tree := newest(b, filepath.Join(root, "data", "cache", "trees"))
	dir := b.TempDir()
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		write(b, motd, time.Now().String()+"\n")
		o := meros(b, p, root, "build", "lab")
		_, chain := o.stage("delta")

		raw, packed := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
		os.Remove(raw)
		full := run(b, "mke2fs", "-q", "-t", "ext4", "-d", tree, raw, "512M") + run(b, "qemu-img", "convert", "-O", "qcow2", raw, packed)
		s.add("s/chain", chain)
		s.add("s/flattened", o.wall.Seconds())
		s.add("s/full-repack", full.Seconds())
		s.add("x/full-repack", full.Seconds()/chain)
	}
}

// newest is the directory that was made last.
func newest(b *testing.B, dir string) string {
	b.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	best, size := "", int64(0)
	for _, e := range entries {
		if n := allocated(b, filepath.Join(dir, e.Name())); n > size {
			best, size = filepath.Join(dir, e.Name()), n
		}
	}
	return best
}

// BenchmarkTen builds ten machines that share a base, against one, from
// packages that are there and nothing else.
func BenchmarkTen(b *testing.B) {
	p := program(b)
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		rootOne, rootTen := downloaded(b, p, machines(1)), downloaded(b, p, machines(10))
		one, ten := meros(b, p, rootOne, "build", "lab"), meros(b, p, rootTen, "build", "lab")
		store := func(root string) int64 { return allocated(b, filepath.Join(root, "data", "cache")) }
		s.add("s/one", one.wall.Seconds())
		s.add("s/ten", ten.wall.Seconds())
		s.add("x/one", ten.wall.Seconds()/one.wall.Seconds())
		s.add("MB/machine", float64(store(rootTen)-store(rootOne))/9/1e6)
	}
}
