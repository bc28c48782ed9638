// This file tests unfinished files and deliveries to other file systems.

package cache

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"meros/bench/lab"
)

// otherFileSystem returns a directory on another file system than t.TempDir.
func otherFileSystem(t *testing.T) string {
	t.Helper()
	dir := lab.InMemory(t)
	var here, there syscall.Stat_t
	if err := syscall.Stat(t.TempDir(), &here); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Stat(dir, &there); err != nil {
		t.Fatal(err)
	}
	if here.Dev == there.Dev {
		lab.Skip(t, "needs temporary files on another file system than /dev/shm")
	}
	return dir
}

func TestDeliverElsewhere(t *testing.T) {
	s := open(t)
	from := filepath.Join(s.Dir(), "tmp", "x")
	f, err := os.OpenFile(from, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 64 << 20
	if _, err := f.WriteAt([]byte("content"), 32<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	dir := otherFileSystem(t)
	dead := filepath.Join(dir, unfinishedPrefix+"1")
	if err := os.WriteFile(dead, []byte("of a killed process"), 0o600); err != nil {
		t.Fatal(err)
	}
	alive, err := NewUnfinished(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "disk")
	a, err := s.Deliver(t.Context(), from, to)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delivered(to, a); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(to)
	if err != nil || len(got) != size || string(got[32<<20:][:7]) != "content" || len(bytes.Trim(got, "\x00")) != 7 {
		t.Errorf("%d bytes were delivered, %v", len(got), err)
	}
	fi, err := os.Stat(to)
	if err != nil {
		t.Fatal(err)
	}
	if allocated := fi.Sys().(*syscall.Stat_t).Blocks * 512; fi.Mode() != 0o644 || allocated > 1<<20 {
		t.Errorf("mode %v, %d bytes allocated", fi.Mode(), allocated)
	}
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("the file of a dead process: %v", err)
	}
	if err := alive.Finish(0o600); err != nil {
		t.Errorf("the file of another writer: %v", err)
	}
	if err := alive.Close(); err != nil {
		t.Error(err)
	}
	// A full disk leaves no file behind.
	const small = 4 << 20
	full := filepath.Join(t.TempDir(), "full")
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	lab.NeedRoot(t)
	if err := unix.Mount("none", full, "tmpfs", 0, "size=64k"); err != nil {
		lab.Skip(t, "mount a tmpfs: %v", err)
	}
	defer unix.Unmount(full, unix.MNT_DETACH)
	if err := os.WriteFile(from, bytes.Repeat([]byte("x"), small), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Deliver(t.Context(), from, filepath.Join(full, "disk")); err == nil {
		t.Error("4 MiB fit into 64 KiB")
	}
	if left, err := os.ReadDir(full); err != nil || len(left) > 0 {
		t.Errorf("left behind on the full disk: %v, %v", left, err)
	}
}

// Only a regular file, or a link to one, is replaced.
func TestReplaces(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		syscall.Mkfifo(at("fifo"), 0o600), os.Mkdir(at("directory"), 0o755), os.WriteFile(at("file"), nil, 0o644),
		os.Symlink("fifo", at("link to a FIFO")), os.Symlink("file", at("link")), os.Symlink("nothing", at("dangling link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, replaced := range map[string]bool{
		"fifo": false, "directory": false, "link to a FIFO": false, "file": true, "link": true, "dangling link": true, "new": true,
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := os.Lstat(at(name))
			s := open(t)
			from := filepath.Join(s.Dir(), "tmp", "x")
			if err := os.WriteFile(from, []byte("content"), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := s.Deliver(t.Context(), from, at(name))
			u, uerr := NewUnfinished(at(name))
			if uerr == nil {
				uerr = errors.Join(u.Finish(0o644), u.Close())
			}
			if (err == nil) != replaced || (uerr == nil) != replaced {
				t.Errorf("%v; %v", err, uerr)
			}
			after, err := os.Lstat(at(name))
			switch {
			case err != nil:
				t.Error(err)
			case replaced && !after.Mode().IsRegular(), !replaced && !os.SameFile(before, after):
				t.Errorf("its mode is now %v", after.Mode())
			}
		})
	}
	if left, _ := filepath.Glob(at(unfinishedPrefix + "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// A FIFO that was created while the file was written is not replaced.
	u, err := NewUnfinished(at("late"))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if err := syscall.Mkfifo(at("late"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := u.Finish(0o644); err == nil {
		t.Error("a FIFO was replaced")
	}
}
