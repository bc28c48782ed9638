// This file is the verb shutdown.

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"meros/constellations"
	"meros/runner/vm"
)

type shutdownCmd struct {
	Constellation string        `arg:"" help:"Name of the constellation."`
	Machine       []string      `arg:"" optional:"" help:"Machines (default: all)."`
	Wait          time.Duration `default:"60s" help:"Time limit for the power button, and then for poweroff over ssh, before QEMU is stopped; 0 skips both."`
}

// Run implements the verb.
func (c *shutdownCmd) Run(e *env) error {
	m, g, err := findGroup(e, c.Constellation)
	if err != nil {
		return err
	}
	machines, err := withRemoved(m, g, c.Machine)
	if err != nil {
		return err
	}
	return shutdown(e, g, machines, c.Wait)
}

// shutdown shuts the machines down and reports how each one ended.
func shutdown(e *env, g *vm.Group, machines []*constellations.Machine, timeout time.Duration) error {
	if err := os.MkdirAll(e.dataDir(), 0o755); err != nil {
		return err
	}
	unlock, err := lockGroup(e, g)
	if err != nil {
		return err
	}
	defer unlock()
	ways := map[string]string{
		"": "was not running", "acpi": "shut down by its power button", "ssh": "shut down by poweroff over ssh",
		"quit": "did not react; its QEMU was asked to quit", "kill": "did not react; its QEMU was killed",
	}
	err = g.Shutdown(e.ctx, names(machines), timeout, func(d vm.Down) {
		e.ui.note("%s/%s %s%s", g.Name, d.Machine, ways[d.Method], took(d))
	})
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	return err
}

// took formats how long a shutdown took.
func took(d vm.Down) string {
	if d.Method == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", seconds(d.Took))
}
