// This file is the verb view.

package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"meros/runner/hint"
)

type viewCmd struct {
	Constellation string `arg:"" help:"Name of the constellation."`
	Machine       string `arg:"" help:"Name of a machine with display: true."`
}

// Run implements the verb: it becomes a viewer.
func (c *viewCmd) Run(e *env) error {
	g, err := groupOf(e, c.Constellation, c.Machine)
	if err != nil {
		return err
	}
	socket, err := g.Screen(c.Machine)
	if err != nil {
		return err
	}
	viewer, err := exec.LookPath("vncviewer")
	if err != nil {
		return hint.Add(fmt.Errorf("no VNC viewer for unix sockets is installed (vncviewer); the screen is at %s", socket), "`apt install tigervnc-viewer` installs one on Debian")
	}
	e.ui.close()
	return fmt.Errorf("start %s: %w", viewer, syscall.Exec(viewer, []string{viewer, socket}, os.Environ()))
}
