// This file is the verb init.

package main

import "time"

type initCmd struct {
	Constellation string        `arg:"" help:"Name of a directory below constellations/."`
	Machine       []string      `arg:"" optional:"" help:"Only these machines."`
	Wait          time.Duration `default:"5m" help:"Longest a machine may take until ssh answers."`
	Locked        bool          `help:"Fail instead of changing meros.lock."`
	Timeout       time.Duration `help:"Longest time one hook may take."`
	Use           givenImage    `placeholder:"IMAGE" help:"Boot the one machine from this image, which is never written to, instead of a base system."`
}

// Run implements the verb.
func (c *initCmd) Run(e *env) error {
	r := request{Constellation: c.Constellation, Machines: c.Machine, Locked: c.Locked, Timeout: c.Timeout, Use: c.Use}
	_, err := (&startRequest{request: r, Wait: c.Wait}).start(e)
	return err
}
