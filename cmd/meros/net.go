package main

import (
	"fmt"

	"meros/constellations"
	"meros/runner/network"
	"meros/runner/vm"
	"meros/stages"
)

type netCmd struct {
	Show  netShowCmd  `cmd:"" help:"Show who may reach whom."`
	Check netCheckCmd `cmd:"" help:"Prove with real packets that who may reach whom is as the manifest says."`
}

type netShowCmd struct {
	Constellation string `arg:"" help:"Name of the constellation."`
	JSON          bool   `name:"json" help:"Print a JSON array of objects."`
	Rules         bool   `help:"Print the rules of the packet filter, as nft(8) writes them."`
}

// networksOf are a constellation's networks.
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
	ways := network.Matrix(ns.Bridges)
	if c.JSON {
		return e.sayJSON(ways)
	}
	for _, w := range ways {
		e.ui.say("%-15s -> %-32s %s", w.From, w.To, openness[w.Open])
	}
	for _, p := range ns.Ports {
		e.ui.say("%-15s -> %-32s %s", p.Listen, fmt.Sprintf("%s, port %d", p.Machine, p.Port), openness[true])
	}
	return nil
}

var openness = map[bool]string{true: "yes", false: "no"}

type netCheckCmd struct {
	Constellation string `arg:"" help:"Name of a constellation that is up."`
	JSON          bool   `name:"json" help:"Print a JSON array of objects."`
}

// Run implements the verb.
func (c *netCheckCmd) Run(e *env) error {
	if _, err := networksOf(e, c.Constellation); err != nil {
		return err
	}
	proofs, err := e.group(c.Constellation).CheckNetworks(e.ctx)
	if err != nil {
		return err
	}
	wrong := 0
	for _, p := range proofs {
		if !p.OK() {
			wrong++
		}
	}
	if c.JSON {
		if err := e.sayJSON(proofs); err != nil {
			return err
		}
	} else {
		for _, p := range proofs {
			verdict := "as it should be"
			if !p.OK() {
				verdict = "WRONG: it should be " + openness[p.Open]
				if p.Said != "" {
					verdict += " (" + p.Said + ")"
				}
			}
			e.ui.say("%-15s -> %-32s %-3s  %s", p.From, p.To, openness[p.Reached], verdict)
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d ways are not as the manifest says (meros init %s applies it)", wrong, len(proofs), c.Constellation)
	}
	return nil
}
