package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

type viewCmd struct {
	Constellation string `arg:"" help:"Name of the constellation."`
	Machine       string `arg:"" help:"Name of a machine with display: true."`
}

// Run implements the verb: it becomes a viewer of the machine's screen.
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
		return fmt.Errorf("no viewer is installed that takes a unix socket (Debian: apt install tigervnc-viewer); the screen is shown by VNC at %s", socket)
	}
	e.ui.close()
	return fmt.Errorf("start %s: %w", viewer, syscall.Exec(viewer, []string{viewer, socket}, os.Environ()))
}
