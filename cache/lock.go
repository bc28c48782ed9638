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

// Lock takes the store-wide lock called name (a plain file name), so that of
// several processes that want one thing made, one makes it. The kernel frees
// it when its holder dies, so it is never stale. If it is taken for more than
// a moment, busy is called once with the holder's process id (0 if unknown),
// and Lock waits until it is free or ctx ends.
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

// LockDirectory is [Store.Lock] for what is in any directory, in which nothing
// is written for it: whoever changes a file there holds it meanwhile.
func LockDirectory(ctx context.Context, dir string, busy func()) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock a directory: %w", err)
	}
	tell := func(int) { busy() }
	if err := waitFlock(ctx, f, &tell); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// TryLock is Lock without waiting: unlock is nil if the lock is taken.
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

// holdLock completes the taking of a lock, or gives it up and returns nil:
// the last holder unlinks the file before it lets go of it, and a lock on a
// file that has lost its name guards nothing.
func (s *Store) holdLock(f *os.File) (unlock func()) {
	if !sameFile(f, f.Name()) {
		f.Close()
		return nil
	}
	f.Truncate(0)
	f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return func() { os.Remove(f.Name()); f.Close() }
}

// worthTelling is the pause from which on a wait is no moment any more.
const worthTelling = 4 * time.Millisecond

func waitFlock(ctx context.Context, f *os.File, busy *func(int)) error {
	wait := time.Millisecond
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if *busy != nil && wait >= worthTelling {
			b := make([]byte, 20)
			n, _ := f.ReadAt(b, 0)
			pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
			(*busy)(pid)
			*busy = nil
		}
		// A blocking flock(2) cannot be ended by a context.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			wait = min(wait*2, 50*time.Millisecond)
		}
	}
}

// dropStaleLocks removes the lock files of dead processes. They guard nothing,
// but nobody else would remove those whose keys are never built again.
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
