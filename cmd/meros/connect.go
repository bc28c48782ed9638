// This file is the verb connect.

package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"meros/runner/hint"
)

type connectCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       string   `arg:"" help:"Name of the machine."`
	Agent         bool     `short:"A" help:"Forward your ssh agent to the machine."`
	Command       []string `arg:"" optional:"" passthrough:"" help:"Command to run, after --. One word is a line for the shell; several words are passed on as they are. Its exit status becomes that of meros."`
}

// Run implements the verb: it becomes ssh(1).
func (c *connectCmd) Run(e *env) error {
	g, err := groupOf(e, c.Constellation, c.Machine)
	if err != nil {
		return err
	}
	command := c.Command
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	var more []string
	if c.Agent {
		more = []string{"-A", "-o", "IdentityAgent=SSH_AUTH_SOCK", "-o", "ControlPath=none"}
	}
	through, err := proxy(e, g.Name, c.Machine)
	if err != nil {
		return err
	}
	argv, err := g.ConnectArgv(c.Machine, through, more, command)
	if err != nil {
		return err
	}
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return hint.Add(err, "`apt install openssh-client` installs it on Debian")
	}
	e.ui.close()
	return fmt.Errorf("start %s: %w", program, syscall.Exec(program, argv, os.Environ()))
}
