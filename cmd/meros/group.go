package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"meros/constellations"
	"meros/runner/vm"
)

// known is a constellation as its manifest says or, where that cannot be read,
// as its machines were started: a mistake in a file, or a new name of a
// directory, is no reason not to reach them.
func known(e *env, name string) (*constellations.Manifest, *vm.Group, error) {
	m, err := constellations.Find(e.root, name)
	if err == nil || !constellations.IsName(name) {
		return m, e.group(name), usageIfMissing(err)
	}
	g := e.group(name)
	machines, merr := g.Machines()
	if merr != nil || len(machines) == 0 {
		return nil, nil, usageIfMissing(err)
	}
	e.ui.note("%s: its machines are told by their records, for its manifest is of no use: %s", name, printable(err.Error()))
	m = &constellations.Manifest{Name: name}
	for _, n := range machines {
		m.Machines = append(m.Machines, constellations.Machine{Name: n})
	}
	return m, g, nil
}

// constellationsOf are those with a manifest, and those without that have machines.
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

// groupOf is where a machine of a constellation is.
func groupOf(e *env, constellation, machine string) (*vm.Group, error) {
	m, g, err := known(e, constellation)
	if err != nil {
		return nil, err
	}
	if _, err := selectMachines(m, []string{machine}); err != nil {
		return nil, err
	}
	return g, nil
}

// names are those of the machines.
func names(machines []*constellations.Machine) []string {
	var all []string
	for _, m := range machines {
		all = append(all, m.Name)
	}
	return all
}

// withForgotten are the named machines, or all: those of the manifest, and
// those that run but are in it no more.
func withForgotten(m *constellations.Manifest, g *vm.Group, names []string) ([]*constellations.Machine, error) {
	running, err := g.Machines()
	if err != nil {
		return nil, err
	}
	known := *m
	known.Machines = slices.Clone(m.Machines)
	for _, n := range running {
		if _, err := m.Machine(n); err != nil {
			known.Machines = append(known.Machines, constellations.Machine{Name: n})
		}
	}
	return selectMachines(&known, names)
}

// runningMachines are the named machines, or those that run.
func runningMachines(e *env, constellation string, wanted []string) (*vm.Group, []string, error) {
	m, err := constellations.Find(e.root, constellation)
	if err != nil {
		return nil, nil, usageIfMissing(err)
	}
	g := e.group(m.Name)
	machines, err := withForgotten(m, g, wanted)
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
		return nil, nil, fmt.Errorf("%s %w (meros init %s)", m.Name, vm.ErrNotRunning, m.Name)
	}
	return g, alive, nil
}

// lockGroup waits until no other meros starts or stops machines of the group.
func lockGroup(e *env, g *vm.Group) (unlock func(), err error) {
	return g.Lock(e.ctx, func() { e.ui.note("waiting: another meros starts or stops machines of %s", g.Name) })
}
