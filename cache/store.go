// Package cache is meros' durable memory: a content-addressed store of
// artifacts and an index from action keys to the artifacts they gave.
//
// # Layout
//
//	cas/ab/<sha256>          an artifact, its bytes as they are, mode 0444
//	actions/ab/<sha256>      an action's entry (JSON): its outputs' digests
//	actions/ab/<sha256>.key  the key text whose sha256 the name is
//	trees/<boot>/<view>/<sha256>/      an unpacked layer, derived, may be deleted
//	trees/<boot>/<view>/<sha256>.look  what stat(2) said of all of it
//	locks/<name>             flock(2) files, one for each key in work
//	tmp/                     files on their way; a dead run's are reclaimed
//	build/                   scratch directories of runs, see [Store.NewScratch]
//	pins/<name>              what is never collected, see [Store.Pin]
//	collect.lock             flock(2), see [Store.Collect]
//
// # Promises
//
// Everything is written to tmp/ or a scratch directory, synced, and renamed to
// its name: a name that exists was complete once. A file that is damaged later,
// or an entry that cannot be read, is a [Miss] with a reason, never a failed
// build and never a wrong answer. The package knows nothing of stages or graphs.
package cache

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Store is an open cache directory. It is safe for concurrent use by several
// goroutines and several processes.
type Store struct {
	dir    string
	tmp    string // where files on their way are
	boot   string // of this host, random(4)
	view   string // of this process on owners, see idView
	noSync bool

	readOnly  bool
	delivered os.FileMode
	now       func() time.Time

	guard   guard
	started time.Time // when this run began, if it has a scratch directory

	mu      sync.Mutex
	trusted map[string]bool // trees that were looked at
}

// Options are what differs between a user's store and a test's.
type Options struct {
	// NoSync leaves out fsync(2): after a crash of the machine the newest
	// entries may be damaged (and are then misses).
	NoSync bool
	// ReadOnly makes and removes nothing: a store that is not there is empty,
	// and what is damaged stays.
	ReadOnly bool
	// Delivered is the mode of files that are put outside of the store; 0 is
	// 0644.
	Delivered os.FileMode
	// Now is the clock, for the time an entry was made; nil is time.Now.
	Now func() time.Time
}

// Open opens the store in dir and makes it where it is missing.
func Open(dir string, o Options) (*Store, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	}
	view, err := idView()
	if err != nil {
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	}
	s := &Store{dir: dir, tmp: filepath.Join(dir, "tmp"), boot: strings.TrimSpace(string(boot)), view: view, noSync: o.NoSync, readOnly: o.ReadOnly, delivered: cmp.Or(o.Delivered, 0o644), now: o.Now, trusted: make(map[string]bool)}
	for _, d := range []string{"cas", "actions", filepath.Join("trees", s.boot, s.view), "locks", "tmp"} {
		if o.ReadOnly {
			break
		}
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("open cache %s: %w", dir, err)
		}
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s, nil
}

// Dir is the directory the store was opened with.
func (s *Store) Dir() string { return s.dir }

// Miss says why the store has no usable answer. It is never the build's
// failure: what is missing is made again.
type Miss struct{ Reason string }

func (m *Miss) Error() string { return "cache miss: " + m.Reason }

func miss(format string, a ...any) error { return &Miss{fmt.Sprintf(format, a...)} }

// sync makes f durable, unless the store is a test's.
func (s *Store) sync(f *os.File) error {
	if s.noSync {
		return nil
	}
	return f.Sync()
}

// syncDir makes a rename within dir durable.
func (s *Store) syncDir(dir string) error {
	if s.noSync {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writeFile publishes data as name: temporary file, fsync, rename.
func (s *Store) writeFile(name string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(s.tmp, "w-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = s.sync(f); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return s.rename(f.Name(), name)
}

// rename moves a complete file to its final name, whose directory it makes.
func (s *Store) rename(from, to string) error {
	err := os.Rename(from, to)
	if os.IsNotExist(err) {
		if err = os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		err = os.Rename(from, to)
	}
	if err != nil {
		return err
	}
	return s.syncDir(filepath.Dir(to))
}
