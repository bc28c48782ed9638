// Package cache stores the results of a build: artifacts by the digests of their
// bytes, and an index from action keys to artifacts. It knows nothing of stages,
// graphs or projects: the caller names the directories it wants counted and the
// artifacts it wants to retain.
//
// # Layout
//
//	cas/ab/<sha256>          an artifact, its bytes unchanged, mode 0444, sealed
//	actions/ab/<sha256>      an action's entry: JSON with the digests of its outputs
//	actions/ab/<sha256>.key  the key text whose sha256 is the name
//	trees/<boot>/<view>/<sha256>/      an unpacked layer; can be unpacked again
//	trees/<boot>/<view>/<sha256>.look  the fingerprint of that tree, and its size
//	delivered/<sha256>       a file that was written outside, see [Store.Deliver]
//	pins/<name>              the artifacts of one pin, see [Store.Pin]
//	locks/<name>             flock(2) files, one for each key in work
//	collect.lock             flock(2) file, see below
//	tmp/                     files in progress of a store without a scratch directory
//
// Runs have their scratch directories below one parent on the same file system, see
// [Store.NewScratch]. Other files may stand in the directory. The store ignores them,
// except for the directories that the caller names as [Area].
//
// # Publishing
//
// Every artifact, entry and key text is written in tmp/ or in the run's scratch
// directory, synced with fsync(2), and renamed to its final name. Then the directory
// of that name is synced. So a file that has its name was complete once, also after a
// power failure. An artifact is hashed after the last write to it. [Store.Record] writes the key text before the
// entry, and its caller stores the outputs before both.
//
// A published artifact is sealed: its modification time is set to a constant. A later
// write changes that time. If size and time are unchanged, [Store.Has] does not read
// the file. Otherwise it reads the file and drops it if its digest differs. A bit that
// flips on the disk changes no time: [Store.VerifyAll] finds those, and
// [Store.Tree] reads an artifact in any case before it unpacks it. An entry contains
// its own checksum.
//
// Whatever is missing or damaged is a [Miss] with a reason. It is never a failed build
// and never a wrong answer.
//
// Unpacked trees are not synced, because that takes as long as unpacking them. A tree is
// trusted only during the boot of the host in which it was made, and only by processes
// that see the same owners (the view). Its fingerprint, a digest of the stat data of all
// its files, must be unchanged.
//
// # Locks
//
// All locks are flock(2) locks. The kernel releases them when their process dies, so
// there are no stale locks.
//
//   - locks/<key> is held exclusively from the last look-up before a run to the
//     recording of its entry. If two processes want one key, one runs and one waits.
//   - locks/tree-<sha256> is held exclusively while a tree is checked or unpacked.
//   - A run's scratch directory is locked exclusively as long as the run lives.
//   - collect.lock is held shared to mark something as used and to begin a run. A
//     collection holds it exclusively. Both hold it for moments only.
//
// # Access times
//
// The access time of an artifact is the time of its last use. The store sets it
// explicitly, at most once in ten minutes, so that it works on file systems mounted
// with noatime, too. A reader outside of the store may move it forward, which only
// makes the artifact stay longer. For a tree, the modification time of its fingerprint
// file has this role. Times are never before the start of the run, so that a clock
// that is set back does not make used artifacts look old.
//
// # Collection
//
// [Store.Collect] removes the least recently used items until the limits are met.
// Builds may run at the same time:
//
//   - The collector takes collect.lock exclusively for a batch of 64 items. So nobody
//     can mark an item between the check of its time and its removal.
//   - Everything used since ten minutes before the oldest live run started stays: use
//     times are only that precise. Everything used since the collection began stays.
//   - So a run may rely, until it ends, on every artifact that [Store.Has] found.
//   - A run begins under the shared lock, so that a collection sees every live run.
//   - Large trees are only renamed under the lock, and deleted after it.
//
// An entry is removed with the last of its outputs, and its log with it.
//
// # Pins and roots
//
// A pin is a named list of artifacts that a user wants to retain, made by
// `meros cache pin`. The store only remembers it. A root is an artifact or entry that
// one collection must retain. The caller of [Store.Collect] hands in all roots, pins
// among them. The collector asks for them again if a run has begun or ended meanwhile.
//
// # After a crash
//
// Most of what a killed process leaves behind is removed later:
//
//   - its scratch directory: the next run calls [Reclaim]
//   - trees of earlier boots, and lock files that no process holds:
//     [Store.NewScratch] removes them
//   - unfinished files beside a delivery: the next [NewUnfinished] there removes them
//   - artifacts without an entry: a collection removes them like any others
//
// Two kinds of files stay and only take space: files in tmp/, and a key text without an
// entry.
//
// # Not on NFS
//
// The directory must be on a local file system of one host. NFS is not safe:
//
//   - flock(2) on NFS is a byte-range lock, and an exclusive one needs a file that is
//     open for writing. Directories, which runs lock, cannot be. With local_lock=flock,
//     nfs(5), hosts do not see each other's locks at all.
//   - rename(2) on NFS may fail although the file was renamed, if the server restarts.
//     A file that is removed while it is open stays until then, as .nfsXXXX.
//   - Attributes are cached, by default for up to a minute. A collector would not see
//     that another host has just marked an artifact as used.
//   - Each host has its own boot, so each would remove the other's trees.
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
	tmp    string // directory of files in progress
	boot   string // id of this boot of the host, random(4)
	view   string // how this process sees owners, see idView
	noSync bool

	readOnly  bool
	delivered os.FileMode
	now       func() time.Time

	guard   guard
	started time.Time // start of this run, if it has a scratch directory

	mu      sync.Mutex
	trusted map[string]bool // trees whose fingerprints were checked
}

// Options configure a store.
type Options struct {
	// NoSync skips fsync(2). After a crash of the host the newest entries may be
	// damaged. They are misses then.
	NoSync bool
	// ReadOnly neither creates nor removes files. A missing store is empty, and
	// damaged files stay.
	ReadOnly bool
	// Delivered is the mode of delivered files; 0 means 0644.
	Delivered os.FileMode
	// Now is the clock for the times of entries and uses; nil means time.Now.
	Now func() time.Time
}

// Open opens the store in dir. It creates the directories that are missing.
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

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.dir }

// Miss is the reason why the store has no usable answer. It does not fail a build:
// the build makes the missing artifact again.
type Miss struct{ Reason string }

func (m *Miss) Error() string { return "cache miss: " + m.Reason }

func miss(format string, a ...any) error { return &Miss{fmt.Sprintf(format, a...)} }

// sync makes f durable, unless the store was opened with NoSync.
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

// writeFile publishes data under the path name: temporary file, fsync, rename.
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

// rename moves a complete file to its final name. It creates the directory if it is
// missing.
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
