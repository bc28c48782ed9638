// This file measures builds of Debian machines: the bootstrap, an edited file,
// and ten machines at once.

package bench

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"meros/bench/lab"
	"meros/constellations"
	"meros/runner/debian"
)

// BenchmarkBootstrap builds a bookworm base system from local packages. It
// measures the whole stage of meros: the tree, its archive and its digest. The
// peers are mmdebstrap and debootstrap, which only make a tree.
func BenchmarkBootstrap(b *testing.B) {
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		p := project(b, 1)
		ours, _ := p.Must(b, "build", "lab", "--rootfs-only").Stage("bootstrap")

		lock, err := constellations.ReadLock(p.Path("constellations/lab/meros.lock"))
		if err != nil {
			b.Fatal(err)
		}
		section := lock.Section(constellations.Section{Distribution: "debian", Suite: "bookworm", Arch: "x86_64"})
		var debs []string
		for _, d := range section.Base {
			debs = append(debs, filepath.Join(p.Path("data/cache/cas"), d.SHA256[:2], d.SHA256))
		}
		dir := b.TempDir()
		os.Chmod(dir, 0o755)
		archive := filepath.Join(dir, "archive")
		names, err := debian.LocalArchive(b.Context(), archive, "bookworm", "amd64", debs, section.Date)
		if err != nil {
			b.Fatal(err)
		}
		include := "--include=" + strings.Join(names, ",")
		mm := lab.Time(b, "mmdebstrap", "--quiet", "--mode=root", "--variant=essential", "--format=directory", include, "--skip=check/qemu",
			"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "bookworm", filepath.Join(dir, "mm"), "deb [trusted=yes] copy://"+archive+" bookworm main")
		de := lab.Time(b, "debootstrap", "--no-check-gpg", "--variant=minbase", include, "bookworm", filepath.Join(dir, "de"), "file://"+archive)
		s.add("s/meros", ours)
		s.add("s/mmdebstrap", mm.Seconds())
		s.add("s/debootstrap", de.Seconds())
		s.add("x/mmdebstrap", mm.Seconds()/ours)
		s.add("x/debootstrap", de.Seconds()/ours)
	}
}

// BenchmarkEdit changes one file in includes.chroot of a machine with an image
// of 200 MB. The peer does the work of a build without the chain: it makes the
// whole file system and image again.
func BenchmarkEdit(b *testing.B) {
	p := project(b, 1)
	const motd = "constellations/lab/m0/includes.chroot/etc/motd"
	p.Write(b, motd, "0\n")
	p.Must(b, "build", "lab")
	tree := largest(b, p.Path("data/cache/trees"))
	dir := b.TempDir()
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		p.Write(b, motd, time.Now().String()+"\n")
		syscall.Sync() // so that meros does not wait for the peer's writes
		o := p.Must(b, "build", "lab")
		_, chain := o.Stage("delta")

		raw, packed := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
		os.Remove(raw)
		full := lab.Time(b, "mke2fs", "-q", "-t", "ext4", "-d", tree, raw, "512M") + lab.Time(b, "qemu-img", "convert", "-O", "qcow2", raw, packed)
		s.add("s/chain", chain)
		s.add("s/flattened", o.Wall.Seconds())
		s.add("s/full-repack", full.Seconds())
		s.add("x/full-repack", full.Seconds()/chain)
	}
}

// largest returns the entry of dir that takes the most disk space.
func largest(b *testing.B, dir string) string {
	b.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	best, size := "", int64(0)
	for _, e := range entries {
		if n := lab.Allocated(b, filepath.Join(dir, e.Name())); n > size {
			best, size = filepath.Join(dir, e.Name()), n
		}
	}
	return best
}

// BenchmarkTen builds ten machines that share a base, and one for comparison.
// Both start with downloaded packages and an otherwise empty cache.
func BenchmarkTen(b *testing.B) {
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		pOne, pTen := project(b, 1), project(b, 10)
		one, ten := pOne.Must(b, "build", "lab"), pTen.Must(b, "build", "lab")
		store := func(p *lab.Project) int64 { return lab.Allocated(b, p.Path("data/cache")) }
		s.add("s/one", one.Wall.Seconds())
		s.add("s/ten", ten.Wall.Seconds())
		s.add("x/one", ten.Wall.Seconds()/one.Wall.Seconds())
		s.add("MB/machine", float64(store(pTen)-store(pOne))/9/1e6)
	}
}
