// This file is the verb info: it shows the state of machines.

package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"meros/constellations"
	"meros/runner/vm"
)

type infoCmd struct {
	Constellation string `arg:"" optional:"" help:"Name of the constellation (default: all)."`
	JSON          bool   `name:"json" help:"Print a JSON array of objects."`
}

// Run implements the verb.
func (c *infoCmd) Run(e *env) error {
	which := []string{c.Constellation}
	if c.Constellation == "" {
		var err error
		if which, err = constellationsOf(e); err != nil {
			return err
		}
	}
	var all []vm.Status
	var machines []*constellations.Machine
	var unknown []error // reported after the other constellations
	for _, name := range which {
		m, g, err := findGroup(e, name)
		if err != nil {
			unknown = append(unknown, err)
			continue
		}
		ms, err := withRemoved(m, g, nil)
		if err != nil {
			return err
		}
		ss, err := g.Info(e.ctx, names(ms))
		if err != nil {
			return err
		}
		for i := range ss {
			ss[i].Constellation = m.Name
			if m.Dir == "" { // without a manifest
				ms[i].CPUs = ss[i].CPUs
			}
		}
		all, machines = append(all, ss...), append(machines, ms...)
	}
	if c.JSON {
		return errors.Join(append(unknown, e.sayJSON(all))...)
	}
	for i, s := range all {
		name := s.Machine
		if c.Constellation == "" {
			name = s.Constellation + "/" + s.Machine
		}
		e.ui.say("%-15s %-12s %s", name, s.State, describe(machines[i], s))
		for _, l := range s.Tail {
			e.ui.say("  | %s", printable(l))
		}
		if s.Hint != "" {
			e.ui.say("  hint: %s", s.Hint)
		}
	}
	return errors.Join(unknown...)
}

// describe returns the last column of a machine's line.
func describe(m *constellations.Machine, s vm.Status) string {
	parts := []string{}
	if s.PID != 0 {
		parts = append(parts, fmt.Sprintf("pid %d, up %s", s.PID, time.Since(s.Started).Round(time.Second)))
	}
	if s.Exit != "" {
		parts = append(parts, s.Exit)
	}
	if s.Ready > 0 && s.PID != 0 {
		parts = append(parts, fmt.Sprintf("ready after %.1f s", s.Ready))
	}
	if m.CPUs == 0 {
		parts = append(parts, "no longer in the manifest")
	}
	cpus, memory := m.CPUs, m.Memory
	if s.CPUs != 0 {
		cpus, memory = s.CPUs, s.Memory
	}
	parts = append(parts, fmt.Sprintf("%d CPUs, %d MiB", cpus, memory>>20))
	if s.Console != "" {
		parts = append(parts, "console "+s.Console)
	}
	return strings.Join(parts, ", ")
}
