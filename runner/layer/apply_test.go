// This file compares Apply with the kernel's overlay.

package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/bench/lab"
)

// A layer applied in place gives the same tree as the layer in an overlay, whatever the
// changes.
func TestApply(t *testing.T) {
	lab.NeedRoot(t)
	for seed := range uint64(40) {
		if err := inNamespace(func() error { return applied(t, seed) }); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// inNamespace runs f in a mount namespace of its own.
func inNamespace(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// applied compares the two for one random tree with random changes.
func applied(t *testing.T, seed uint64) error {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"lower", "merged"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			return err
		}
	}
	r := rand.New(rand.NewPCG(seed, 1))
	for range 40 {
		change(r, at("lower"))
	}
	var base, upper bytes.Buffer
	if err := Capture(t.Context(), &base, at("lower"), epoch, false); err != nil {
		return err
	}
	lower := at("lower")
	for i := range 2 { // two layers in one stream
		n := fmt.Sprint(i)
		if err := errors.Join(os.Mkdir(at("upper"+n), 0o755), os.Mkdir(at("work"+n), 0o755)); err != nil {
			return err
		}
		if err := unix.Mount("overlay", at("merged"), "overlay", 0, "userxattr,lowerdir="+lower+",upperdir="+at("upper"+n)+",workdir="+at("work"+n)); err != nil {
			return err
		}
		defer unix.Unmount(at("merged"), unix.MNT_DETACH)
		for range 1 + r.IntN(20) {
			change(r, at("merged"))
		}
		if err := Capture(t.Context(), &upper, at("upper"+n), epoch, false); err != nil {
			return err
		}
		lower = at("upper"+n) + ":" + lower
	}
	want := captured(t, at("merged"))
	if err := os.WriteFile(at("base"), base.Bytes(), 0o644); err != nil {
		return err
	}
	if err := Unpack(t.Context(), at("base"), at("tree")); err != nil {
		return err
	}
	stream := bytes.NewReader(upper.Bytes())
	for range 2 {
		if err := Apply(t.Context(), stream, at("tree")); err != nil {
			return err
		}
	}
	if got := captured(t, at("tree")); !bytes.Equal(got, want) {
		return fmt.Errorf("applied:\n%s\noverlay:\n%s", headers(got), headers(want))
	}
	return nil
}

// headers returns the text of all headers of an archive.
func headers(archive []byte) string {
	var b strings.Builder
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if err != nil {
			return b.String()
		}
		fmt.Fprintf(&b, "%+v\n", *h)
	}
}

// change makes one random change to a tree of few names. It ignores errors.
func change(r *rand.Rand, root string) {
	name := root
	for range 1 + r.IntN(3) {
		name = filepath.Join(name, string(rune('a'+r.IntN(4))))
	}
	if fi, err := os.Stat(filepath.Dir(name)); err == nil && !fi.IsDir() {
		return // opening a FIFO waits for a writer
	}
	switch r.IntN(11) {
	case 0, 1, 2:
		os.MkdirAll(name, 0o755)
	case 3:
		os.Remove(name) // it may be a FIFO
		os.WriteFile(name, []byte(fmt.Sprint(r.IntN(1000))), 0o644)
	case 4:
		os.Symlink(string(rune('a'+r.IntN(4))), name)
	case 5:
		os.RemoveAll(name)
	case 6:
		os.RemoveAll(name)
		os.MkdirAll(name, 0o700)
	case 7:
		os.Chmod(name, os.FileMode(0o600+r.IntN(0o200)))
	case 8:
		os.Lchown(name, r.IntN(3), r.IntN(3))
	case 9:
		if unix.Lsetxattr(name, "user.meros", []byte{byte(r.IntN(3))}, 0) != nil || r.IntN(2) == 0 {
			unix.Lremovexattr(name, "user.meros")
		}
	case 10:
		unix.Mkfifo(name, 0o644)
	}
	os.Chtimes(name, time.Time{}, time.Unix(int64(r.IntN(1000)), 0))
}
