package bench

import (
	"crypto/rand"
	"io"
	"os"
	"testing"
	"time"

	"meros/bench/lab"
	"meros/graph"
)

// BenchmarkUse reads an image of 2 GB that a machine is to be made of for the
// first time (wanted: 2 s), and again (it is not read then). The limit it is
// measured against is sha256sum.
func BenchmarkUse(b *testing.B) {
	f, err := os.CreateTemp(b.TempDir(), "image")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.Reader, 2_000_000_000); err != nil {
		b.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(f.Name(), old, old); err != nil {
		b.Fatal(err)
	}
	time.Sleep(3 * time.Second) // a file that was just changed is not remembered
	lab.Time(b, "sha256sum", f.Name())
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		stats := graph.ReadStatCache("", time.Now())
		start := time.Now()
		if _, err := graph.ReadLocal("image", f.Name(), nil, stats); err != nil {
			b.Fatal(err)
		}
		first := time.Since(start)
		start = time.Now()
		if _, err := graph.ReadLocal("image", f.Name(), nil, stats); err != nil {
			b.Fatal(err)
		}
		s.add("s/2GB", first.Seconds())
		s.add("ms/again", float64(time.Since(start).Microseconds())/1000)
		s.add("x/sha256sum", first.Seconds()/lab.Time(b, "sha256sum", f.Name()).Seconds())
	}
}
