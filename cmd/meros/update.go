// This file is the verb update, which replaces pins by current ones.

package main

import (
	"errors"
	"slices"

	"meros/constellations"
	"meros/stages"
)

type updateCmd struct {
	Constellation string   `arg:"" optional:"" help:"Name of the constellation, or kernel for kernels that belong to none (default: all)."`
	Machine       []string `arg:"" optional:"" help:"Machines whose pins to update (default: all)."`
	Kernel        bool     `help:"Update only the sources of kernels."`
}

// Run implements the verb.
func (c *updateCmd) Run(e *env) error {
	var names []string
	if c.Constellation != "" {
		names = []string{c.Constellation}
	}
	args := append(append([]string{"update"}, names...), c.Machine...)
	if c.Kernel {
		args = append(args, "--kernel")
	}
	if done, err := e.inSandboxNamespace(names, args); done {
		return err
	}
	return each(e, names, func(name string) error { return c.update(e, name) })
}

func (c *updateCmd) update(e *env, name string) error {
	if name == kernelsAlone && !isConstellation(e, name) {
		return c.updateKernels(e)
	}
	m, machines, err := (&request{Constellation: name, Machines: c.Machine}).load(e)
	if err != nil {
		return err
	}
	unlock, err := holdLock(e, m)
	if err != nil {
		return err
	}
	defer unlock()
	lock, err := readLock(m)
	if damaged := (*constellations.Errors)(nil); errors.As(err, &damaged) && len(c.Machine) == 0 {
		lock, err = new(constellations.Lock), nil // the update replaces every pin
	}
	if err != nil {
		return err
	}
	before := *lock
	before.Sources, before.Sections = slices.Clone(lock.Sources), slices.Clone(lock.Sections)
	lock.Forget(c.only(stages.Needs(machines)))
	// The other machines keep their pins. A forgotten section is resolved again
	// for all machines that use it.
	if err := e.pin(m, lock, lock.Unpinned(stages.AllNeeds(m))); err != nil {
		return err
	}
	lock.KeepDates(&before)
	if !c.Kernel && len(c.Machine) == 0 {
		lock.Prune(needsNow(e, m)) // drops the image of --use; the next build with --use pins it again
	}
	if string(lock.Encode()) == string(before.Encode()) {
		e.ui.note("%s is up to date", lockFile(m))
		return nil
	}
	return writeLock(e, m, lock)
}

// only returns the needs whose pins the update replaces.
func (c *updateCmd) only(needs []constellations.Need) []constellations.Need {
	if c.Kernel {
		return slices.DeleteFunc(needs, func(n constellations.Need) bool { return !n.OfKernel() })
	}
	return needs
}

// updateKernels replaces the pins of kernels that belong to no constellation.
func (c *updateCmd) updateKernels(e *env) error {
	m := kernelManifest(e)
	unlock, err := holdLock(e, m)
	if err != nil {
		return err
	}
	defer unlock()
	lock, err := readLock(m)
	if err != nil {
		return err
	}
	needs := c.only(lock.Needs())
	lock.Forget(needs)
	if err := e.pin(m, lock, needs); err != nil {
		return err
	}
	return writeLock(e, m, lock)
}
