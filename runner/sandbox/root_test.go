// This file tests how paths are resolved in a sandbox's root.

package sandbox

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// openIn succeeds while renames elsewhere make openat2(2) reject "..".
func TestOpenInWhileOthersRename(t *testing.T) {
	root, other := t.TempDir(), t.TempDir()
	for _, d := range []string{filepath.Join(root, "a/b"), filepath.Join(other, "x/1"), filepath.Join(other, "y")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	var end atomic.Bool
	done := make(chan error)
	go func() {
		var err error
		for from, to := "x/1", "y/1"; !end.Load() && err == nil; from, to = to, from {
			err = os.Rename(filepath.Join(other, from), filepath.Join(other, to))
		}
		done <- err
	}()
	for range 20000 {
		fd, err := openIn(dir, "/a/../../../a/b/../b")
		if err != nil {
			t.Error(err)
			break
		}
		unix.Close(fd)
	}
	end.Store(true)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
