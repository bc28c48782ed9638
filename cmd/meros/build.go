// This file is the verb build: it fills a request and builds it.

package main

import (
	"errors"
	"os"
	"time"

	"golang.org/x/term"
)

type buildCmd struct {
	Constellation string        `arg:"" help:"Name of a directory below constellations/."`
	Machine       []string      `arg:"" optional:"" help:"Only these machines."`
	RootfsOnly    bool          `help:"Build the disk images only, no kernel and no initrd."`
	Boot          bool          `help:"Boot each built machine once and keep the verdict."`
	Locked        bool          `help:"Fail instead of changing meros.lock."`
	Timeout       time.Duration `help:"Longest time one hook may take (such as 10m; default: no limit)."`
	Use           givenImage    `placeholder:"IMAGE" help:"Make the one machine of this image, which is never written to, instead of a base system: a file, a URL, oci:PATH or docker://NAME:TAG, as base: of the manifest."`
	Check         bool          `help:"Then build all of it again, in fresh directories, and compare: what does not give the same bytes is named."`
	KeepGoing     bool          `short:"k" help:"After a failure, build what does not depend on it."`
	Rebuild       string        `placeholder:"STAGE" help:"Run the stages with this in their names again, although the cache has what they give."`
	ShellOnError  bool          `help:"If a stage fails, run it once more and open a shell inside it, where it fails."`
	Jobs          int           `short:"j" help:"CPU tokens (default: one for each CPU)."`
	ToRun         bool          `hidden:"" help:"Only what machines run with, not the form that a manifest wants beside it."`
}

func (c *buildCmd) request() *request {
	return &request{
		Constellation: c.Constellation, Machines: c.Machine, RootfsOnly: c.RootfsOnly, Boot: c.Boot, ToRun: c.ToRun, Use: c.Use,
		Locked: c.Locked, Timeout: c.Timeout, Jobs: c.Jobs, Check: c.Check, KeepGoing: c.KeepGoing, Rebuild: c.Rebuild, ShellOnError: c.ShellOnError,
	}
}

// Run implements the verb.
func (c *buildCmd) Run(e *env) error {
	if c.ShellOnError && !(term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd()))) {
		return usageError{errors.New("--shell-on-error needs a terminal")}
	}
	r := c.request()
	if _, _, err := r.load(e); err != nil {
		return err // before anything starts, and only once
	}
	if done, err := e.inNamespace(r.args()...); done {
		return err
	}
	b, err := r.build(e)
	if err == nil {
		b.close()
	}
	return err
}
