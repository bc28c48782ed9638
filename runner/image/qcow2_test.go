// This file tests the reader and writer of qcow2.

package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestQcow2ReadsWhatQEMUWrites(t *testing.T) {
	need(t, "qemu-img")
	raw := filepath.Join(t.TempDir(), "raw")
	f, err := os.Create(raw)
	check(t, err)
	check(t, f.Truncate(700*mib)) // more than one L2 table
	for _, at := range []int64{0, 123456, 600 * mib, 700*mib - 100} {
		_, err := f.WriteAt([]byte("data"), at)
		check(t, err)
	}
	f.Close()
	img := raw + ".qcow2"
	output(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, img)
	out, err := os.Create(raw + ".ours")
	check(t, err)
	defer out.Close()
	check(t, Flatten(context.Background(), out, []string{img}))
	if s := output(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", out.Name(), raw); !strings.Contains(s, "Images are identical") {
		t.Error(s)
	}
	output(t, "qemu-img", "check", "-f", "qcow2", out.Name())
}

// FuzzQcow2 looks for headers and tables that crash the reader, or that make it
// allocate without bounds.
func FuzzQcow2(f *testing.F) {
	dir := f.TempDir()
	out, err := os.Create(filepath.Join(dir, "seed"))
	if err != nil {
		f.Fatal(err)
	}
	if err := writeQcow2(out, 4*mib, []cluster{{guest: 3, zero: true}}, "base"); err != nil {
		f.Fatal(err)
	}
	seed, _ := os.ReadFile(out.Name())
	f.Add(seed[:clusterSize], seed[clusterSize:])
	f.Fuzz(func(t *testing.T, header, rest []byte) {
		file := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(file, append(header, rest...), 0o600); err != nil {
			t.Fatal(err)
		}
		if q, err := openQcow2(file); err == nil {
			buf := make([]byte, clusterSize)
			for g := range q.cluster {
				q.bytes(g, buf)
			}
			q.Close()
		}
	})
}
