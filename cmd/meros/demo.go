// This file is the verb demo: it creates, builds and boots a constellation, and runs a
// command on it.

package main

import (
	"fmt"
	"os/exec"
	"strings"
	"time"

	"meros/constellations"
	"meros/stages"
)

type demoCmd struct {
	Keep bool `help:"Leave the machines running."`
}

// Run implements the verb.
func (c *demoCmd) Run(e *env) error {
	if !isConstellation(e, demo) {
		if err := makeConstellation(e, demo, "debian"); err != nil {
			return err
		}
	}
	g, err := (&startRequest{request: request{Constellation: demo}, Wait: stages.BootTimeout}).start(e)
	if err != nil {
		return err
	}
	m, err := constellations.Find(e.root, demo)
	if err != nil {
		return err
	}
	for _, vmachine := range m.Machines {
		through, err := proxy(e, m.Name, vmachine.Name)
		if err != nil {
			return err
		}
		argv, err := g.ConnectArgv(vmachine.Name, through, nil, []string{"uname -a"})
		if err != nil {
			return err
		}
		out, err := exec.CommandContext(e.ctx, argv[0], argv[1:]...).Output()
		if err != nil {
			return fmt.Errorf("run uname on %s: %w", vmachine.Name, err)
		}
		e.ui.say("%s", strings.TrimSpace(string(out)))
	}
	if c.Keep {
		e.ui.note("it is still running; `meros connect %s %s` opens a shell, `meros shutdown %s` shuts it down", demo, m.Machines[0].Name, demo)
		return nil
	}
	all, err := selectMachines(m, nil)
	if err != nil {
		return err
	}
	return shutdown(e, g, all, time.Minute)
}

// demo is the constellation of the README.
const demo = "demo"
