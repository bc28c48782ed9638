// This file is the verb net: it shows and checks which machines can reach each other.

package main

import (
	"fmt"

	"meros/constellations"
	"meros/runner/hint"
	"meros/runner/network"
	"meros/runner/vm"
	"meros/stages"
)

type netCmd struct {
	Show  netShowCmd  `cmd:"" help:"Show which machines can reach each other."`
	Check netCheckCmd `cmd:"" help:"Check with real packets that exactly the connections of the manifest work."`
}

type netShowCmd struct {
	Constellation string `arg:"" help:"Name of the constellation."`
	JSON          bool   `name:"json" help:"Print a JSON array of objects."`
	Rules         bool   `help:"Print the rules of the packet filter in the syntax of nft(8)."`
}

// networksOf returns the networks of a constellation. It fails if there are none.
func networksOf(e *env, name string) (*vm.Networks, error) {
	m, err := constellations.Find(e.root, name)
	if err != nil {
		return nil, usageIfMissing(err)
	}
	ns, err := newNetworks(m)
	if err == nil && len(ns.Bridges) == 0 {
		err = fmt.Errorf("constellation %s has no bridges", name)
	}
	if err != nil {
		return nil, usageError{err}
	}
	return ns, nil
}

// newNetworks plans the networks of a manifest.
func newNetworks(m *constellations.Manifest) (*vm.Networks, error) {
	ns, err := vm.NewNetworks(m, func(machine string, n constellations.Network) string { return stages.MAC(m.Name, machine, n) })
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", m.Name, err)}
	}
	return ns, nil
}

// Run implements the verb.
func (c *netShowCmd) Run(e *env) error {
	ns, err := networksOf(e, c.Constellation)
	if err != nil {
		return err
	}
	if c.Rules {
		e.ui.say("%s", network.String(ns.Bridges, "UPLINK"))
		return nil
	}
	paths := network.Matrix(ns.Bridges)
	if c.JSON {
		return e.sayJSON(paths)
	}
	for _, p := range paths {
		e.ui.say("%-15s -> %-32s %s", p.From, p.To, openness[p.Open])
	}
	for _, p := range ns.Ports {
		e.ui.say("%-15s -> %-32s %s", p.Listen, fmt.Sprintf("%s, port %d", p.Machine, p.Port), openness[true])
	}
	return nil
}

var openness = map[bool]string{true: "yes", false: "no"}

type netCheckCmd struct {
	Constellation string `arg:"" help:"Name of a running constellation."`
	JSON          bool   `name:"json" help:"Print a JSON array of objects."`
}

// Run implements the verb.
func (c *netCheckCmd) Run(e *env) error {
	if _, err := networksOf(e, c.Constellation); err != nil {
		return err
	}
	results, err := e.group(c.Constellation).CheckNetworks(e.ctx)
	if err != nil {
		return err
	}
	wrong := 0
	for _, p := range results {
		if !p.OK() {
			wrong++
		}
	}
	if c.JSON {
		if err := e.sayJSON(results); err != nil {
			return err
		}
	} else {
		for _, p := range results {
			text := "as it should be"
			if !p.OK() {
				text = "WRONG: it should be " + openness[p.Open]
				if p.Said != "" {
					text += " (" + p.Said + ")"
				}
			}
			e.ui.say("%-15s -> %-32s %-3s  %s", p.From, p.To, openness[p.Reached], text)
		}
	}
	if wrong > 0 {
		return hint.Add(fmt.Errorf("%d of %d connections are not as the manifest says", wrong, len(results)), "`meros init %s` applies the manifest", c.Constellation)
	}
	return nil
}
