// This file is the verb init.

package main

import "time"

type initCmd struct {
	Constellation string        `arg:"" help:"Name of the constellation."`
	Machine       []string      `arg:"" optional:"" help:"Machines (default: all)."`
	Wait          time.Duration `default:"5m" help:"Time limit for each machine to become ready."`
	Locked        bool          `help:"Fail if meros.lock would have to change."`
	Timeout       time.Duration `help:"Time limit of one hook, such as 10m (default: none)."`
	Use           givenImage    `placeholder:"IMAGE" help:"Base the one machine on this image instead of a base system, as for build. The image is never written to."`
}

// Run implements the verb.
func (c *initCmd) Run(e *env) error {
	r := request{Constellation: c.Constellation, Machines: c.Machine, Locked: c.Locked, Timeout: c.Timeout, Use: c.Use}
	_, err := (&startRequest{request: r, Wait: c.Wait}).start(e)
	return err
}
