// This file measures how long it takes to read a foreign image.

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

// BenchmarkUse reads a foreign image of 2 GB for the first time (target: 2 s)
// and a second time, which skips the reading. The limit is sha256sum.
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
	time.Sleep(3 * time.Second) // the stat cache does not remember a file that just changed
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
