// This file is the verb build: it fills a request and builds it.

package main

import (
	"errors"
	"os"
	"time"

	"golang.org/x/term"
)

type buildCmd struct {
	Constellation string        `arg:"" help:"Name of the constellation."`
	Machine       []string      `arg:"" optional:"" help:"Machines (default: all)."`
	RootfsOnly    bool          `help:"Build only the disk images, no kernels and no initrds."`
	Boot          bool          `help:"Boot each machine once, and cache the result."`
	Locked        bool          `help:"Fail if meros.lock would have to change."`
	Timeout       time.Duration `help:"Time limit of one hook, such as 10m (default: none)."`
	Use           givenImage    `placeholder:"IMAGE" help:"Base the one machine on this image instead of a base system: a file, a URL, oci:PATH or docker://NAME:TAG, as base: in the manifest. The image is never written to."`
	Check         bool          `help:"Build everything a second time in fresh directories, and name the stages whose bytes differ."`
	KeepGoing     bool          `short:"k" help:"After a failure, build everything that does not depend on it."`
	Rebuild       string        `placeholder:"STAGE" help:"Run the stages with this in their names again, even if the cache has their outputs."`
	ShellOnError  bool          `help:"If a stage fails, run it again and open a shell where it fails."`
	Jobs          int           `short:"j" help:"Number of CPUs to use (default: all)."`
	ToRun         bool          `hidden:"" help:"Leave out the exports that the manifest asks for."`
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
