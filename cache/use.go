package cache

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// useGrain is how exactly the last use of something is known: what was used
// within it is not marked again.
const useGrain = 10 * time.Minute

// lastUse is when an artifact was used last: its time of access. Whoever reads
// it without the store may set it too, and only makes it stay longer.
func lastUse(fi os.FileInfo) time.Time {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Atim.Unix())
	}
	return time.Time{}
}

// stamp is the time of what happens now. It is never before this run began: a
// clock that is set back must not make what the run uses look older than it.
func (s *Store) stamp() time.Time {
	if now := s.now(); now.After(s.started) {
		return now
	}
	return s.started
}

// fresh tells whether what was used at a time need not be marked again.
func (s *Store) fresh(used time.Time) bool { return s.stamp().Sub(used) <= useGrain }

// use marks an artifact as used now, unless that was done a moment ago. Who
// does that may rely on it until its run ends, see [Store.Collect]. The error
// is os.ErrNotExist if it is gone; that it could not be marked is none.
func (s *Store) use(name string) error {
	now := unix.NsecToTimespec(s.stamp().UnixNano())
	return s.mark(name, lastUse, []unix.Timespec{now, {Nsec: unix.UTIME_OMIT}})
}

// useTree is use for an unpacked tree, by the time at which its look was
// modified: the look is read by who does not use the tree.
func (s *Store) useTree(name string) error {
	now := unix.NsecToTimespec(s.stamp().UnixNano())
	return s.mark(name, os.FileInfo.ModTime, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, now})
}

func (s *Store) mark(name string, used func(os.FileInfo) time.Time, times []unix.Timespec) error {
	fi, err := os.Lstat(name)
	if err != nil || s.readOnly || s.fresh(used(fi)) {
		return err
	}
	leave, err := s.guard.enter(s.guardFile())
	if err == nil {
		defer leave()
		err = unix.UtimesNanoAt(unix.AT_FDCWD, name, times, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		_, err = os.Lstat(name) // it may be another user's; what counts is whether it is there
	}
	return err
}

// Use marks artifacts as used, so that they are collected later than others.
// What is not there is left out.
func (s *Store) Use(all map[string]Artifact) {
	for _, a := range all {
		if valid(a.Digest) {
			s.use(s.Path(a.Digest))
		}
	}
}

func (s *Store) guardFile() string { return filepath.Join(s.dir, "collect.lock") }

// guard keeps what is found from being collected before it is marked: an
// flock(2) that many who mark share, and that who collects has alone.
type guard struct {
	mu    sync.Mutex
	file  *os.File
	users int
}

func (g *guard) enter(name string) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users == 0 {
		if g.file, err = flockFile(name, unix.LOCK_SH); err != nil {
			return nil, err
		}
	}
	g.users++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.users--; g.users == 0 {
			g.file.Close()
		}
	}, nil
}

// flockFile opens a file, made where it is missing, and locks it. It is held
// for moments only, so nobody waits long.
func flockFile(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "flock", Path: name, Err: err}
	}
	return f, nil
}
