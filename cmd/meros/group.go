// This file finds the machines of a constellation, running or not, for the verbs that
// use them. It does not need a manifest that is valid.

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"meros/constellations"
	"meros/runner/hint"
	"meros/runner/vm"
)

// findGroup returns a constellation and its machines. If it cannot read the manifest,
// it returns the machines that have run records: a mistake in a file must not make
// running machines unreachable.
func findGroup(e *env, name string) (*constellations.Manifest, *vm.Group, error) {
	m, err := constellations.Find(e.root, name)
	if err == nil || !constellations.IsName(name) {
		return m, e.group(name), usageIfMissing(err)
	}
	g := e.group(name)
	machines, merr := g.Machines()
	if merr != nil || len(machines) == 0 {
		return nil, nil, usageIfMissing(err)
	}
	e.ui.note("%s: cannot read the manifest, listing machines from their run records: %s", name, printable(hint.Line(err)))
	m = &constellations.Manifest{Name: name}
	for _, n := range machines {
		m.Machines = append(m.Machines, constellations.Machine{Name: n})
	}
	return m, g, nil
}

// constellationsOf returns the constellations that have a manifest or machines.
func constellationsOf(e *env) ([]string, error) {
	names, err := constellations.List(e.root)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(e.stateDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, d := range entries {
		if !d.IsDir() || !constellations.IsName(d.Name()) || slices.Contains(names, d.Name()) {
			continue
		}
		machines, err := e.group(d.Name()).Machines()
		if err != nil {
			return nil, err
		}
		if len(machines) > 0 {
			names = append(names, d.Name())
		}
	}
	return names, nil
}

// groupOf returns the group of a machine. It fails if there is no such machine.
func groupOf(e *env, constellation, machine string) (*vm.Group, error) {
	m, g, err := findGroup(e, constellation)
	if err != nil {
		return nil, err
	}
	if _, err := selectMachines(m, []string{machine}); err != nil {
		return nil, err
	}
	return g, nil
}

// names returns the names of the machines.
func names(machines []*constellations.Machine) []string {
	var all []string
	for _, m := range machines {
		all = append(all, m.Name)
	}
	return all
}

// withRemoved returns the named machines, or all if names is empty. All includes
// machines that run although the manifest no longer has them.
func withRemoved(m *constellations.Manifest, g *vm.Group, names []string) ([]*constellations.Machine, error) {
	running, err := g.Machines()
	if err != nil {
		return nil, err
	}
	all := *m
	all.Machines = slices.Clone(m.Machines)
	for _, n := range running {
		if _, err := m.Machine(n); err != nil {
			all.Machines = append(all.Machines, constellations.Machine{Name: n})
		}
	}
	return selectMachines(&all, names)
}

// runningMachines returns the named machines, or the running ones if wanted is empty.
func runningMachines(e *env, constellation string, wanted []string) (*vm.Group, []string, error) {
	m, err := constellations.Find(e.root, constellation)
	if err != nil {
		return nil, nil, usageIfMissing(err)
	}
	g := e.group(m.Name)
	machines, err := withRemoved(m, g, wanted)
	if err != nil {
		return nil, nil, err
	}
	if len(wanted) > 0 {
		return g, names(machines), nil
	}
	all, err := g.Info(e.ctx, names(machines))
	if err != nil {
		return nil, nil, err
	}
	var alive []string
	for _, s := range all {
		if s.PID != 0 {
			alive = append(alive, s.Machine)
		}
	}
	if len(alive) == 0 {
		return nil, nil, hint.Add(fmt.Errorf("%s %w", m.Name, vm.ErrNotRunning), "`meros init %s` starts it", m.Name)
	}
	return g, alive, nil
}

// lockGroup waits until no other meros starts or stops machines of the group.
func lockGroup(e *env, g *vm.Group) (unlock func(), err error) {
	return g.Lock(e.ctx, func() { e.ui.note("waiting: another meros starts or stops machines of %s", g.Name) })
}
