// This file gives each run a private directory, and removes those of killed runs.

package cache

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Scratch is one run's private directory for files in progress, on the store's file
// system. The run holds an flock(2) on it as long as it lives.
type Scratch struct {
	dir  string
	lock *os.File
}

// NewScratch creates a scratch directory below parent. The store's temporary files go
// there from now on. NewScratch moves the trees of earlier boots there, and removes
// unused lock files. [Scratch.Close] removes the directory. If the run is killed, the
// next run's [Reclaim] does.
func (s *Store) NewScratch(parent string) (*Scratch, error) {
	c, err := s.newScratch(parent)
	if err != nil {
		return nil, err
	}
	s.tmp = c.dir
	s.dropStaleTrees()
	s.dropStaleLocks()
	return c, nil
}

// newScratch creates the directory under the shared collect lock, so that a collection
// sees every live run.
func (s *Store) newScratch(parent string) (*Scratch, error) {
	leave, err := s.guard.enter(s.guardFile())
	if err != nil {
		return nil, fmt.Errorf("create a scratch directory: %w", err)
	}
	defer leave()
	c, err := NewScratch(parent)
	if err != nil {
		return nil, err
	}
	s.started = s.now()
	if err := os.Chtimes(filepath.Join(c.dir, startedFile), s.started, s.started); err != nil {
		c.Close()
		return nil, fmt.Errorf("create a scratch directory: %w", err)
	}
	return c, nil
}

// NewScratch creates a scratch directory below parent, without a store. [Scratch.Close]
// removes it. If the run is killed, the next run's [Reclaim] does.
func NewScratch(parent string) (*Scratch, error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("create a scratch directory: %w", err)
	}
	for {
		dir, err := os.MkdirTemp(parent, "run-*")
		if err != nil {
			return nil, fmt.Errorf("create a scratch directory: %w", err)
		}
		plain(dir)
		f, err := os.Open(dir)
		if err == nil && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && sameFile(f, dir) {
			c := &Scratch{dir, f}
			if err := os.WriteFile(filepath.Join(dir, startedFile), nil, 0o644); err != nil {
				c.Close()
				return nil, fmt.Errorf("create a scratch directory: %w", err)
			}
			return c, nil
		}
		// Before the lock, another run may have reclaimed the directory as a dead one.
		if f != nil {
			f.Close()
		} else if !os.IsNotExist(err) {
			return nil, fmt.Errorf("create a scratch directory: %w", err)
		}
	}
}

// startedFile is a file in each scratch directory. Its modification time is the start
// of the run.
const startedFile = "started"

// oldestRun returns the start of the oldest live run with a scratch directory below
// parent, other than except. alive reports whether there is one.
func oldestRun(parent, except string) (started time.Time, alive bool, err error) {
	entries, err := os.ReadDir(parent)
	if err != nil && !os.IsNotExist(err) {
		return started, false, fmt.Errorf("find live runs: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(parent, e.Name())
		if dir == except || !strings.HasPrefix(e.Name(), "run-") {
			continue
		}
		f, err := os.Open(dir)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return started, false, fmt.Errorf("find live runs: %w", err)
		}
		dead := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil
		f.Close()
		if dead {
			continue
		}
		since := time.Now() // a run without the file has used nothing yet
		if fi, err := os.Stat(filepath.Join(dir, startedFile)); err == nil {
			since = fi.ModTime()
		}
		if !alive || since.Before(started) {
			started, alive = since, true
		}
	}
	return started, alive, nil
}

// plain removes what a directory has inherited and would pass on to the files in it:
// the set-group-ID bit and access control lists, acl(5).
func plain(dir string) {
	unix.Removexattr(dir, "system.posix_acl_default")
	unix.Removexattr(dir, "system.posix_acl_access")
	os.Chown(dir, -1, os.Getegid())
	os.Chmod(dir, 0o755)
}

// Dir returns the path of the directory.
func (c *Scratch) Dir() string { return c.dir }

// Close removes the directory and everything in it.
func (c *Scratch) Close() error {
	err := removeTree(c.dir)
	c.lock.Close()
	return err
}

// Reclaim removes the scratch directories of dead runs below parent, and returns their
// number.
func Reclaim(parent string) (int, error) { return eachDead(parent, removeTree) }

// Dead returns the number of scratch directories that [Reclaim] would remove.
func Dead(parent string) (int, error) {
	return eachDead(parent, func(string) error { return nil })
}

func eachDead(parent string, do func(dir string) error) (int, error) {
	entries, err := os.ReadDir(parent)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reclaim %s: %w", parent, err)
	}
	n := 0
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), "run-") {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			if err := do(dir); err != nil {
				f.Close()
				return n, fmt.Errorf("reclaim %s: %w", dir, err)
			}
			n++
		}
		f.Close()
	}
	return n, nil
}

// removeTree deletes dir even if a directory in it has no write permission, which
// stops an ordinary user.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !os.IsPermission(err) {
		return err
	}
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
