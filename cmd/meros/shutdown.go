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
	Machine       []string      `arg:"" optional:"" help:"Only these machines."`
	Wait          time.Duration `default:"60s" help:"How long the power button, and then poweroff over ssh, may take before it gets harder; 0 leaves both out."`
}

// Run implements the verb.
func (c *shutdownCmd) Run(e *env) error {
	m, g, err := known(e, c.Constellation)
	if err != nil {
		return err
	}
	machines, err := withForgotten(m, g, c.Machine)
	if err != nil {
		return err
	}
	return shutdown(e, g, machines, c.Wait)
}

func shutdown(e *env, g *vm.Group, machines []*constellations.Machine, patience time.Duration) error {
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
		"quit": "did not react; its QEMU was told to end", "kill": "did not react; its QEMU was killed",
	}
	err = g.Shutdown(e.ctx, names(machines), patience, func(d vm.Down) {
		e.ui.note("%s/%s %s%s", g.Name, d.Machine, ways[d.Method], took(d))
	})
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	return err
}

func took(d vm.Down) string {
	if d.Method == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", seconds(d.Took))
}
