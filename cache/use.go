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

// lastUse is when an artifact was used last: its time of access, which only
// the store sets.
func lastUse(fi os.FileInfo) time.Time {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Atim.Unix())
	}
	return time.Time{}
}

// use marks a file as used now, unless that was done a moment ago. Who does
// that may rely on the file until its run ends, see [Store.Collect]; an error
// says that it is gone.
func (s *Store) use(name string) error {
	fi, err := os.Lstat(name)
	if err == nil && s.now().Sub(lastUse(fi)) <= useGrain {
		return nil
	}
	if s.readOnly {
		return err
	}
	leave, err := s.guard.enter(s.guardFile())
	if err != nil {
		return err
	}
	defer leave()
	now := unix.NsecToTimespec(s.now().UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{now, {Nsec: unix.UTIME_OMIT}}, unix.AT_SYMLINK_NOFOLLOW)
}

// Use marks artifacts as used, so that they are collected later than others.
// What is not there is left out.
func (s *Store) Use(all map[string]Artifact) {
	for _, a := range all {
		if a.Digest.Validate() == nil {
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
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
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
