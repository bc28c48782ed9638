// This file makes sure that of several processes only one does a piece of work.

package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Lock takes the store-wide lock called name, a plain file name. Of several processes
// that want to make one thing, only one makes it. The kernel releases the lock if its
// holder dies. If Lock has to wait for more than a few milliseconds, it calls busy once
// with the holder's process id, 0 if unknown. It waits until the lock is free or ctx
// ends.
func (s *Store) Lock(ctx context.Context, name string, busy func(pid int)) (unlock func(), err error) {
	for {
		f, err := s.openLock(name)
		if err != nil {
			return nil, err
		}
		if err = waitFlock(ctx, f, &busy); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if unlock := s.holdLock(f); unlock != nil {
			return unlock, nil
		}
	}
}

// LockDirectory locks any directory, as [Store.Lock] does, without writing a file
// there. It excludes only processes that lock the directory before they change a file
// in it.
func LockDirectory(ctx context.Context, dir string, busy func()) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock directory: %w", err)
	}
	tell := func(int) { busy() }
	if err := waitFlock(ctx, f, &tell); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// TryLock is [Store.Lock] without waiting. unlock is nil if the lock is taken.
func (s *Store) TryLock(name string) (unlock func(), err error) {
	f, err := s.openLock(name)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, nil
	}
	return s.holdLock(f), nil
}

func (s *Store) openLock(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "locks", name), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

// holdLock completes the taking of a lock. A holder unlinks the file before it releases
// the lock, and a lock on an unlinked file guards nothing. In that case holdLock
// releases the lock and returns nil.
func (s *Store) holdLock(f *os.File) (unlock func()) {
	if !sameFile(f, f.Name()) {
		f.Close()
		return nil
	}
	f.Truncate(0)
	f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return func() { os.Remove(f.Name()); f.Close() }
}

// busyPause is the length of a pause from which a wait is reported.
const busyPause = 4 * time.Millisecond

func waitFlock(ctx context.Context, f *os.File, busy *func(int)) error {
	wait := time.Millisecond
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if *busy != nil && wait >= busyPause {
			b := make([]byte, 20)
			n, _ := f.ReadAt(b, 0)
			pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
			(*busy)(pid)
			*busy = nil
		}
		// A context cannot end a blocking flock(2), so poll.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			wait = min(wait*2, 50*time.Millisecond)
		}
	}
}

// dropStaleLocks removes the lock files of dead processes. They guard nothing, but
// those whose keys are never built again would stay forever.
func (s *Store) dropStaleLocks() {
	entries, err := os.ReadDir(filepath.Join(s.dir, "locks"))
	if err != nil {
		return
	}
	for _, e := range entries {
		if unlock, err := s.TryLock(e.Name()); err == nil && unlock != nil {
			unlock()
		}
	}
}

func sameFile(f *os.File, name string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(name)
	return err == nil && os.SameFile(a, b)
}
