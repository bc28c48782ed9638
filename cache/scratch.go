package cache

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Scratch is one run's private directory for files on their way, on the
// store's file system. An flock(2) on it says that its run is alive.
type Scratch struct {
	dir  string
	lock *os.File
}

// NewScratch makes a directory below parent that the store's temporary files
// go to from now on, and takes what dead runs have left in the store out of
// the way. Close removes it; if the run is killed, the next run's
// [Reclaim] does.
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

// newScratch makes it while nobody collects: who does knows of all runs.
func (s *Store) newScratch(parent string) (*Scratch, error) {
	leave, err := s.guard.enter(s.guardFile())
	if err != nil {
		return nil, fmt.Errorf("make a work directory: %w", err)
	}
	defer leave()
	c, err := NewScratch(parent)
	if err != nil {
		return nil, err
	}
	s.started = s.now()
	if err := os.Chtimes(filepath.Join(c.dir, startedFile), s.started, s.started); err != nil {
		c.Close()
		return nil, fmt.Errorf("make a work directory: %w", err)
	}
	return c, nil
}

// NewScratch makes a directory below parent that is removed when its run ends,
// by [Scratch.Close] or, if the run is killed, by the next run's [Reclaim].
func NewScratch(parent string) (*Scratch, error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("make a work directory: %w", err)
	}
	for {
		dir, err := os.MkdirTemp(parent, "run-*")
		if err != nil {
			return nil, fmt.Errorf("make a work directory: %w", err)
		}
		plain(dir)
		f, err := os.Open(dir)
		if err == nil && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && sameFile(f, dir) {
			c := &Scratch{dir, f}
			if err := os.WriteFile(filepath.Join(dir, startedFile), nil, 0o644); err != nil {
				c.Close()
				return nil, fmt.Errorf("make a work directory: %w", err)
			}
			return c, nil
		}
		// Between the two calls another run may have taken it for a dead one's.
		if f != nil {
			f.Close()
		} else if !os.IsNotExist(err) {
			return nil, fmt.Errorf("make a work directory: %w", err)
		}
	}
}

// startedFile is, in a scratch directory, as old as its run.
const startedFile = "started"

// oldestRun is when the oldest of the runs started that have a scratch
// directory below parent, except for one; alive is whether there is any.
func oldestRun(parent, except string) (started time.Time, alive bool, err error) {
	entries, err := os.ReadDir(parent)
	if err != nil && !os.IsNotExist(err) {
		return started, false, fmt.Errorf("look for runs: %w", err)
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
			return started, false, fmt.Errorf("look for runs: %w", err)
		}
		dead := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil
		f.Close()
		if dead {
			continue
		}
		since := time.Now() // it has used nothing yet
		if fi, err := os.Stat(filepath.Join(dir, startedFile)); err == nil {
			since = fi.ModTime()
		}
		if !alive || since.Before(started) {
			started, alive = since, true
		}
	}
	return started, alive, nil
}

// plain takes from a directory what its parent has passed on to it, and what
// it would pass on to all that is made in it: the set-group-ID bit and default
// access control lists, acl(5).
func plain(dir string) {
	unix.Removexattr(dir, "system.posix_acl_default")
	unix.Removexattr(dir, "system.posix_acl_access")
	os.Chown(dir, -1, os.Getegid())
	os.Chmod(dir, 0o755)
}

// Dir is the directory's path.
func (c *Scratch) Dir() string { return c.dir }

// Close removes the directory with all that is in it.
func (c *Scratch) Close() error {
	err := removeTree(c.dir)
	c.lock.Close()
	return err
}

// Reclaim removes the scratch directories below parent whose runs are dead,
// and returns how many there were.
func Reclaim(parent string) (int, error) { return eachDead(parent, removeTree) }

// Dead is how many scratch directories [Reclaim] would remove.
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

// removeTree deletes dir even where a directory inside has lost its write
// permission, which an ordinary user would stumble over.
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
