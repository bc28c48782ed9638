package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/term"

	"meros/cache"
	"meros/constellations"
	"meros/graph"
	"meros/stages"
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

	quiet   bool // say nothing unless something has to be done
	advised bool // of packages that an image does not get
}

func (c *buildCmd) args() []string {
	a := append([]string{"build", c.Constellation}, c.Machine...)
	for flag, on := range map[string]bool{"--rootfs-only": c.RootfsOnly, "--boot": c.Boot, "--locked": c.Locked, "--check": c.Check, "--keep-going": c.KeepGoing, "--shell-on-error": c.ShellOnError, "--to-run": c.ToRun} {
		if on {
			a = append(a, flag)
		}
	}
	if c.Timeout > 0 {
		a = append(a, "--timeout="+c.Timeout.String())
	}
	if c.Use != "" {
		a = append(a, "--use="+string(c.Use))
	}
	if c.Jobs > 0 {
		a = append(a, fmt.Sprint("--jobs=", c.Jobs))
	}
	if c.Rebuild != "" {
		a = append(a, "--rebuild="+c.Rebuild)
	}
	return a
}

// Run implements the verb.
func (c *buildCmd) Run(e *env) error {
	if c.ShellOnError && !(term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd()))) {
		return usageError{errors.New("--shell-on-error needs a terminal")}
	}
	if _, _, err := c.load(e); err != nil {
		return err // before anything is started, and once
	}
	if done, err := e.inNamespace(c.args()...); done {
		return err
	}
	b, err := c.build(e)
	if err == nil {
		b.close()
	}
	return err
}

// build does the work of the verb.
func (c *buildCmd) build(e *env) (b *built, err error) {
	m, machines, err := c.load(e)
	if err != nil {
		return nil, err
	}
	if err := diskCollision(e, m, machines); err != nil {
		return nil, err
	}
	if !c.quiet {
		if err := adviseUnread(e, m); err != nil {
			return nil, err
		}
	}
	w, err := openWorkplace(e)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	lock, err := ensureLock(e, m, stages.Needs(machines), c.Locked)
	if err != nil {
		return nil, err
	}
	plan, planned, targets, err := c.plan(e, w, m, machines, lock)
	if err != nil {
		return nil, err
	}
	x := execution{name: m.Name, verb: "build", jobs: c.Jobs, keepGoing: c.KeepGoing, quiet: c.quiet}
	if c.Rebuild != "" {
		if x.rerun, err = c.rerun(plan); err != nil {
			return nil, err
		}
	}
	if c.RootfsOnly {
		x.verb = "build --rootfs-only"
	}
	for _, pm := range planned {
		x.machines = append(x.machines, pm.Name)
	}
	r, err := w.execute(e, plan, targets, x)
	if ne := (*graph.NodeError)(nil); c.ShellOnError && errors.As(err, &ne) && e.ctx.Err() == nil {
		e.ui.fail(err)
		if err := w.shell(e, plan, ne.Node); err != nil {
			e.ui.fail(err)
		}
		return nil, exitStatus(exitFailed)
	}
	if err != nil {
		return nil, err
	}
	adviseHooks(e, planned, r)
	for _, pm := range planned {
		if pm.Export == nil || c.quiet {
			continue
		}
		if err := tellOmitted(e, w, pm, pm.Format, r); err != nil {
			return nil, err
		}
	}
	if c.Check {
		if err := w.check(e, plan, targets, r, c.Jobs); err != nil {
			return nil, err
		}
	}
	return &built{m, planned, r, w.store, w.close}, nil
}

// built is what a build leaves for the verbs that go on from it.
type built struct {
	manifest *constellations.Manifest
	machines []*stages.Machine
	result   *graph.Result
	store    *cache.Store
	close    func() // until then what was built is not collected
}
