// This file is the verb ssh-config.

package main

import (
	"fmt"

	"meros/constellations"
)

type sshConfigCmd struct {
	Constellation string `arg:"" help:"Name of the constellation."`
}

// Run implements the verb.
func (c *sshConfigCmd) Run(e *env) error {
	m, err := constellations.Find(e.root, c.Constellation)
	if err != nil {
		return usageIfMissing(err)
	}
	g := e.group(m.Name)
	for i := range m.Machines {
		vmachine := &m.Machines[i]
		through, err := proxy(e, m.Name, vmachine.Name)
		if err != nil {
			return err
		}
		text, err := g.SSHConfig(vmachine.Name, vmachine.User, through)
		if err != nil {
			return fmt.Errorf("%s/%s: %w", m.Name, vmachine.Name, err)
		}
		e.ui.say("%s", text)
	}
	return nil
}
