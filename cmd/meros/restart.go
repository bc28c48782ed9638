// This file is the verbs restart and reset.

package main

import (
	"time"

	"meros/runner/vm"
)

// restartArgs are the arguments of both verbs.
type restartArgs struct {
	Constellation string        `arg:"" help:"Name of the constellation."`
	Machine       []string      `arg:"" optional:"" help:"Machines (default: all)."`
	Wait          time.Duration `default:"5m" help:"Time limit for each machine to become ready."`
}

type (
	restartCmd struct{ restartArgs }
	resetCmd   struct{ restartArgs }
)

// Run implements the verb.
func (c *restartCmd) Run(e *env) error { return c.start(e, vm.Restart) }

// Run implements the verb.
func (c *resetCmd) Run(e *env) error { return c.start(e, vm.Reset) }

func (a *restartArgs) start(e *env, onRunning vm.OnRunning) error {
	r := request{Constellation: a.Constellation, Machines: a.Machine}
	_, err := (&startRequest{request: r, Wait: a.Wait, onRunning: onRunning}).start(e)
	return err
}
