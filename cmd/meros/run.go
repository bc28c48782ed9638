// This file is the verb run: it runs a program of a machine and shows its windows
// on this host.

package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"meros/cache"
	"meros/runner/ssh"
)

type runCmd struct {
	NoGUI         bool     `name:"no-gui" help:"Do not show the program's windows here."`
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       string   `arg:"" help:"Name of the machine."`
	Program       []string `arg:"" passthrough:"" help:"Program in the machine and its arguments. Its exit status becomes that of meros."`
}

// Run implements the verb.
func (c *runCmd) Run(e *env) error {
	g, err := groupOf(e, c.Constellation, c.Machine)
	if err != nil {
		return err
	}
	program := c.Program
	if len(program) > 0 && program[0] == "--" {
		program = program[1:]
	}
	if len(program) == 0 {
		return usageError{errors.New("run: no program is named")}
	}
	command := ssh.Line(program)
	var more []string
	if !c.NoGUI && ssh.Compositor() {
		dir, err := socketDir(e)
		if err != nil {
			return err
		}
		defer dir.Close()
		w, err := ssh.StartWaypipe(e.ctx, dir.Dir())
		if err != nil {
			return err
		}
		defer w.Close()
		more, command = w.Options(), w.Command(program)
	} else if !c.NoGUI {
		e.ui.note("no Wayland compositor is here (WAYLAND_DISPLAY): %s runs without windows", program[0])
	}
	through, err := proxy(e, g.Name, c.Machine)
	if err != nil {
		return err
	}
	argv, err := g.ConnectArgv(c.Machine, through, more, []string{command})
	if err != nil {
		return err
	}
	e.ui.close()
	cmd := exec.CommandContext(e.ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	err = cmd.Run()
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exitStatus(exit.ExitCode())
	}
	return err
}

// socketDir makes a private directory for a socket. The path of a socket is short,
// unix(7), and that of the data directory may be long.
func socketDir(e *env) (*cache.Scratch, error) {
	parent := e.scratchDir()
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		parent = filepath.Join(d, "meros")
	}
	if _, err := cache.Reclaim(parent); err != nil {
		return nil, err
	}
	dir, err := cache.NewScratch(parent)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir.Dir(), 0o700); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}
