// This file records when artifacts and trees were last used, and prevents a collection
// from removing them in that moment.

package cache

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// useGrain is the precision of use times. An item that was marked as used within this
// time is not marked again.
const useGrain = 10 * time.Minute

// lastUse returns the time of an artifact's last use: its access time.
func lastUse(fi os.FileInfo) time.Time {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Atim.Unix())
	}
	return time.Time{}
}

// stamp returns the time to mark items with: now, but never before the start of this
// run. A clock that is set back must not make used items look older than the run.
func (s *Store) stamp() time.Time {
	if now := s.now(); now.After(s.started) {
		return now
	}
	return s.started
}

// fresh reports whether an item that was used at a time need not be marked again.
func (s *Store) fresh(used time.Time) bool { return s.stamp().Sub(used) <= useGrain }

// use marks an artifact as used now, unless its mark is fresh. The run may then rely on
// the artifact until it ends, see [Store.Collect]. The error is os.ErrNotExist if the
// artifact is gone. It is nil if the artifact exists but could not be marked.
func (s *Store) use(name string) error {
	now := unix.NsecToTimespec(s.stamp().UnixNano())
	return s.mark(name, lastUse, []unix.Timespec{now, {Nsec: unix.UTIME_OMIT}})
}

// useTree is use for an unpacked tree. It marks the modification time of the tree's
// fingerprint file: a scan reads that file, too, which would change its access time.
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
		_, err = os.Lstat(name) // it may be another user's, but it must exist
	}
	return err
}

// Use marks artifacts as used, so that others are collected first. It ignores artifacts
// that are not in the store.
func (s *Store) Use(all map[string]Artifact) {
	for _, a := range all {
		if valid(a.Digest) {
			s.use(s.Path(a.Digest))
		}
	}
}

func (s *Store) guardFile() string { return filepath.Join(s.dir, "collect.lock") }

// guard prevents a collection between finding an artifact and marking it used. It is an
// flock(2): markers hold it shared, the collector holds it exclusively.
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

// flockFile opens a file, which it creates if it is missing, and locks it. It waits for
// the lock, which is held only for moments.
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
