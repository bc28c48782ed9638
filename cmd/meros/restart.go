package main

import (
	"time"

	"meros/runner/vm"
)

// againArgs are those of the verbs that start machines again.
type againArgs struct {
	Constellation string        `arg:"" help:"Name of the constellation."`
	Machine       []string      `arg:"" optional:"" help:"Only these machines."`
	Wait          time.Duration `default:"5m" help:"Longest a machine may take until ssh answers."`
}

func (a *againArgs) start(e *env, again vm.OnRunning) error {
	_, err := (&initCmd{Constellation: a.Constellation, Machine: a.Machine, Wait: a.Wait, again: again}).up(e)
	return err
}

// Run implements the verb.
func (c *restartCmd) Run(e *env) error { return c.start(e, vm.Restart) }

type (
	restartCmd struct{ againArgs }
	resetCmd   struct{ againArgs }
)

// Run implements the verb.
func (c *resetCmd) Run(e *env) error { return c.start(e, vm.Reset) }
