package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"meros/cache"
	"meros/constellations"
)

func lockFile(m *constellations.Manifest) string { return filepath.Join(m.Dir, "meros.lock") }

func readLock(m *constellations.Manifest) (*constellations.Lock, error) {
	lock, err := constellations.ReadLock(lockFile(m))
	if errors.Is(err, os.ErrNotExist) {
		return new(constellations.Lock), nil
	}
	return lock, err
}

// holdLock keeps other processes from changing the lock until unlock is called,
// so that what is read meanwhile is what is written over. One that is killed
// holds it no more, and what it has not finished is removed.
func holdLock(e *env, m *constellations.Manifest) (unlock func(), err error) {
	unlock, err = cache.LockDirectory(e.ctx, m.Dir, func() { e.ui.note("waiting: another meros changes %s", lockFile(m)) })
	if err == nil {
		for _, f := range constellations.UnfinishedLocks(m.Dir) {
			os.Remove(f)
		}
	}
	return unlock, err
}

// writeLock replaces the lock by one that has what the manifest needs. An image
// that only --use names stays as fixed as one of the manifest, until an update.
// The caller holds the lock.
func writeLock(e *env, m *constellations.Manifest, lock *constellations.Lock) error {
	if m.Name != kernelsAlone || isConstellation(e, m.Name) {
		lock.Prune(append(needsNow(e, m), lock.Images()...)) // kernels of no constellation come and go
	}
	if err := constellations.WriteLock(lockFile(m), lock); err != nil {
		return err
	}
	e.ui.note("wrote %s", lockFile(m))
	return nil
}

// needsNow are those of all machines of a constellation, and those of its
// manifest as it is by now: who has waited may have read an older one than who
// was waited for, and would drop what that one pinned.
func needsNow(e *env, m *constellations.Manifest) []constellations.Need {
	needs := allNeeds(m)
	if now, err := constellations.Find(e.root, m.Name); err == nil {
		needs = append(needs, allNeeds(now)...)
	}
	return needs
}

// ensureLock returns a lock that pins all that is needed, and asks the
// archives for what it does not pin yet.
func ensureLock(e *env, m *constellations.Manifest, needs []constellations.Need, locked bool) (*constellations.Lock, error) {
	if len(constellations.UnfinishedLocks(m.Dir)) > 0 {
		unlock, err := holdLock(e, m)
		if err != nil {
			return nil, err
		}
		unlock()
	}
	lock, missing, err := lacking(m, needs)
	if err != nil || len(missing) == 0 {
		return lock, err
	}
	if locked {
		return nil, fmt.Errorf("%s does not pin %s, and --locked forbids to change it (%s)", lockFile(m), missing[0], pinnedBy(m, missing[0]))
	}
	unlock, err := holdLock(e, m)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Who was waited for may have pinned it.
	if lock, missing, err = lacking(m, needs); err != nil || len(missing) == 0 {
		return lock, err
	}
	if err := pin(e, m, lock, missing); err != nil {
		return nil, err
	}
	return lock, writeLock(e, m, lock)
}

// lacking reads the lock, and finds what it does not pin of what is needed.
func lacking(m *constellations.Manifest, needs []constellations.Need) (*constellations.Lock, []constellations.Need, error) {
	lock, err := readLock(m)
	if err != nil {
		return nil, nil, err
	}
	return lock, lock.Unpinned(needs), nil
}

// pinnedBy is the command that pins what is needed.
func pinnedBy(m *constellations.Manifest, n constellations.Need) string {
	if n.Source == nil || n.OfKernel() || n.Among(allNeeds(m)) {
		return "meros lock " + m.Name
	}
	return fmt.Sprintf("meros build %s %s --use %s", m.Name, n.Machine, n.Source.URL)
}
