package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

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

// writeLock replaces the lock by one that has what the manifest needs. An image
// that only --use names stays as fixed as one of the manifest, until an update.
func writeLock(e *env, m *constellations.Manifest, lock *constellations.Lock) error {
	if m.Name != kernelsAlone || isConstellation(e, m.Name) {
		lock.Prune(append(allNeeds(m), lock.Images()...)) // kernels of no constellation come and go
	}
	if err := constellations.WriteLock(lockFile(m), lock); err != nil {
		return err
	}
	e.ui.note("wrote %s", lockFile(m))
	return nil
}

// ensureLock returns a lock that pins all that is needed, and asks the
// archives for what it does not pin yet.
func ensureLock(e *env, m *constellations.Manifest, needs []constellations.Need, locked bool) (*constellations.Lock, error) {
	lock, err := readLock(m)
	if err != nil {
		return nil, err
	}
	missing := lock.Unpinned(needs)
	if len(missing) == 0 {
		return lock, nil
	}
	if locked {
		return nil, fmt.Errorf("%s does not pin %s, and --locked forbids to change it (%s)", lockFile(m), missing[0], pinnedBy(m, missing[0]))
	}
	if err := pin(e, m, lock, missing); err != nil {
		return nil, err
	}
	return lock, writeLock(e, m, lock)
}

// pinnedBy is the command that pins what is needed.
func pinnedBy(m *constellations.Manifest, n constellations.Need) string {
	if n.Source == nil || n.OfKernel() || n.Among(allNeeds(m)) {
		return "meros lock " + m.Name
	}
	return fmt.Sprintf("meros build %s %s --use %s", m.Name, n.Machine, n.Source.URL)
}
