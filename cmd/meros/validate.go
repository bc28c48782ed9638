// This file is the verb validate: it checks manifests and locks, and builds nothing.

package main

import (
	"errors"
	"fmt"

	"meros/constellations"
	"meros/stages"
)

type validateCmd struct {
	Constellation []string `arg:"" optional:"" help:"Names of constellations (default: all)."`
}

// Run implements the verb.
func (c *validateCmd) Run(e *env) error {
	var first error
	err := each(e, c.Constellation, func(name string) error {
		text, err := validate(e, name)
		if err != nil {
			if first != nil {
				e.ui.fail(first)
			}
			first = err // the caller prints the last one
			return nil
		}
		e.ui.say("%s", text)
		return nil
	})
	if first != nil {
		return first
	}
	return err
}

// validate checks a constellation and returns a summary.
func validate(e *env, name string) (string, error) {
	m, machines, err := (&request{Constellation: name}).load(e)
	if err != nil {
		return "", err
	}
	lock, err := readLock(m)
	if err != nil {
		return "", err
	}
	if err := diskCollision(e, m, machines); err != nil {
		return "", err
	}
	if err := canRun(e, m, machines); err != nil {
		return "", err
	}
	if err := adviseUnread(e, m); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s: %s; ", name, counted(len(machines), "machine"))
	if missing := lock.Unpinned(stages.Needs(machines)); len(missing) > 0 {
		return text + fmt.Sprintf("not pinned yet: %v; `meros lock %s` pins it", missing[0], name), nil
	}
	// Planning finds all files that the manifest names.
	w := e.workspaceToRead()
	for _, vm := range machines {
		_, err := (&request{Constellation: name, Boot: true}).plan(e, w, m, []*constellations.Machine{vm}, lock)
		if err != nil && !errors.As(err, new(*stages.NoProgramError)) { // the manifest is not to blame
			return "", usageError{err}
		}
	}
	return text + "the lock pins everything", nil
}

// canRun finds problems that would keep the built machines from starting.
func canRun(e *env, m *constellations.Manifest, machines []*constellations.Machine) error {
	if _, err := newNetworks(m); err != nil {
		return err
	}
	for _, vm := range machines {
		if _, err := sharesOf(m, vm, e.root); err != nil {
			return err
		}
	}
	return nil
}

// adviseUnread names files that no stage reads although their author probably expects it.
func adviseUnread(e *env, m *constellations.Manifest) error {
	unread, err := stages.Unread(m)
	for _, text := range unread {
		e.ui.note("%s/%s", m.Name, text)
	}
	return err
}
