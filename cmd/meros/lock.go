// This file is the verb lock, and reads and writes the file of a lock for all
// verbs. The package stages/pin looks up the pins.

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"meros/cache"
	"meros/constellations"
	"meros/runner/hint"
	"meros/stages"
	"meros/stages/pin"
)

type lockCmd struct {
	Constellation []string `arg:"" optional:"" help:"Names of constellations (default: all)."`
}

// Run implements the verb.
func (c *lockCmd) Run(e *env) error {
	if done, err := e.inSandboxNamespace(c.Constellation, append([]string{"lock"}, c.Constellation...)); done {
		return err
	}
	return each(e, c.Constellation, func(name string) error {
		m, machines, err := (&request{Constellation: name}).load(e)
		if err != nil {
			return err
		}
		_, err = ensureLock(e, m, stages.Needs(machines), false)
		return err
	})
}

// inSandboxNamespace calls [env.inNamespace] if pinning runs a program of a
// distribution in a sandbox, as it does for Alpine.
func (e *env) inSandboxNamespace(names, args []string) (done bool, err error) {
	if len(names) == 0 {
		if names, err = constellations.List(e.root); err != nil {
			return false, nil // the verb reports it later
		}
	}
	for _, n := range names {
		m, err := constellations.Find(e.root, n)
		if err == nil && slices.ContainsFunc(m.Machines, func(vm constellations.Machine) bool { return vm.Distribution == "alpine" }) {
			return e.inNamespace(args...)
		}
	}
	return false, nil
}

// each calls do for the named constellations, or for all if names is empty. It
// stops at the first error.
func each(e *env, names []string, do func(name string) error) error {
	if len(names) == 0 {
		var err error
		if names, err = constellations.List(e.root); err != nil {
			return err
		}
	}
	for _, n := range names {
		if err := do(n); err != nil {
			return err
		}
	}
	return nil
}

// pin adds to the lock what is missing in it.
func (e *env) pin(m *constellations.Manifest, lock *constellations.Lock, missing []constellations.Need) error {
	p := &pin.Pinner{
		Root: e.root, Partial: e.partialDir(),
		Note: e.ui.note, Progress: e.ui.transient, Scratch: e.scratch,
	}
	err := p.Pin(e.ctx, m, lock, missing)
	if errors.As(err, new(*pin.ManifestError)) {
		return usageError{err}
	}
	return err
}

// isConstellation reports whether constellations/ has a directory of that name.
func isConstellation(e *env, name string) bool {
	_, err := os.Stat(filepath.Join(e.constellationsDir(), name))
	return err == nil
}

func lockFile(m *constellations.Manifest) string { return filepath.Join(m.Dir, "meros.lock") }

// readLock reads the lock beside the manifest. It returns an empty lock if there
// is no file.
func readLock(m *constellations.Manifest) (*constellations.Lock, error) {
	lock, err := constellations.ReadLock(lockFile(m))
	if errors.Is(err, os.ErrNotExist) {
		return new(constellations.Lock), nil
	}
	return lock, err
}

// holdLock prevents other processes from changing the lock until the caller
// calls unlock. The kernel releases the lock of a process that was killed.
// holdLock removes the unfinished files that such a process left.
func holdLock(e *env, m *constellations.Manifest) (unlock func(), err error) {
	unlock, err = cache.LockDirectory(e.ctx, m.Dir, func() { e.ui.note("waiting: another meros changes %s", lockFile(m)) })
	if err == nil {
		for _, f := range constellations.UnfinishedLocks(m.Dir) {
			os.Remove(f)
		}
	}
	return unlock, err
}

// writeLock prunes the lock to the needs of the manifest and replaces the file.
// It retains the image of --use, so that the image stays the same until an
// update. The caller must hold the lock.
func writeLock(e *env, m *constellations.Manifest, lock *constellations.Lock) error {
	if m.Name != kernelsAlone || isConstellation(e, m.Name) {
		lock.Prune(append(needsNow(e, m), lock.Images()...)) // the kernels of no constellation change with each command line
	}
	if err := constellations.WriteLock(lockFile(m), lock); err != nil {
		return err
	}
	e.ui.note("wrote %s", lockFile(m))
	return nil
}

// needsNow returns the needs of m, and those of the manifest as it is on disk
// now. A process that waited for the lock may hold an older manifest. Pruning by
// it would drop pins that the other process just added.
func needsNow(e *env, m *constellations.Manifest) []constellations.Need {
	needs := stages.AllNeeds(m)
	if now, err := constellations.Find(e.root, m.Name); err == nil {
		needs = append(needs, stages.AllNeeds(now)...)
	}
	return needs
}

// ensureLock returns a lock that pins all needs. It looks up the missing pins
// and writes them, unless locked is set: then it returns an error.
func ensureLock(e *env, m *constellations.Manifest, needs []constellations.Need, locked bool) (*constellations.Lock, error) {
	if len(constellations.UnfinishedLocks(m.Dir)) > 0 {
		unlock, err := holdLock(e, m)
		if err != nil {
			return nil, err
		}
		unlock()
	}
	lock, missing, err := missingPins(m, needs)
	if err != nil || len(missing) == 0 {
		return lock, err
	}
	if locked {
		return nil, hint.Add(fmt.Errorf("%s does not pin %s, and --locked forbids changes", lockFile(m), missing[0]), "`%s` pins it", pinnedBy(m, missing[0]))
	}
	unlock, err := holdLock(e, m)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// The previous holder may have pinned everything.
	if lock, missing, err = missingPins(m, needs); err != nil || len(missing) == 0 {
		return lock, err
	}
	if err := e.pin(m, lock, missing); err != nil {
		return nil, err
	}
	return lock, writeLock(e, m, lock)
}

// missingPins reads the lock. It also returns the needs that the lock does not
// pin.
func missingPins(m *constellations.Manifest, needs []constellations.Need) (*constellations.Lock, []constellations.Need, error) {
	lock, err := readLock(m)
	if err != nil {
		return nil, nil, err
	}
	return lock, lock.Unpinned(needs), nil
}

// pinnedBy returns the command that pins the need.
func pinnedBy(m *constellations.Manifest, n constellations.Need) string {
	if n.Source == nil || n.OfKernel() || n.Among(stages.AllNeeds(m)) {
		return "meros lock " + m.Name
	}
	return fmt.Sprintf("meros build %s %s --use %s", m.Name, n.Machine, n.Source.URL)
}
