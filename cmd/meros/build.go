package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"meros/cache"
	"meros/constellations"
	"meros/graph"
	"meros/runner"
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

func (c *buildCmd) load(e *env) (*constellations.Manifest, []*constellations.Machine, error) {
	m, err := constellations.Find(e.root, c.Constellation)
	if err != nil {
		return nil, nil, usageIfMissing(err)
	}
	machines, err := selectMachines(m, c.Machine)
	if err == nil && c.Use != "" {
		err = c.useImage(e, machines)
	}
	return m, machines, err
}

// selectMachines finds the named machines, or takes all.
func selectMachines(m *constellations.Manifest, names []string) ([]*constellations.Machine, error) {
	var ms []*constellations.Machine
	for _, n := range names {
		vm, err := m.Machine(n)
		if err != nil {
			return nil, usageError{err}
		}
		ms = append(ms, vm)
	}
	if len(names) == 0 {
		for i := range m.Machines {
			ms = append(ms, &m.Machines[i])
		}
	}
	return ms, nil
}

func usageIfMissing(err error) error {
	if errs := (*constellations.Errors)(nil); err == nil || errors.As(err, &errs) {
		return err
	}
	return usageError{err}
}

// built is what a build leaves for the verbs that go on from it.
type built struct {
	manifest *constellations.Manifest
	machines []*stages.Machine
	result   *graph.Result
	store    *cache.Store
	close    func() // until then what was built is not collected
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

// plan is what the verb asks for: its nodes, what they are for each machine, and
// the last ones.
func (c *buildCmd) plan(e *env, w *workplace, m *constellations.Manifest, machines []*constellations.Machine, lock *constellations.Lock) (*graph.Plan, []*stages.Machine, []*graph.Node, error) {
	o, err := w.options(e, m, machines, c.Boot)
	if err != nil {
		return nil, nil, nil, err
	}
	o.RootfsOnly, o.Boot = c.RootfsOnly, c.Boot
	if c.Timeout > 0 {
		o.Timeout = c.Timeout.String()
	}
	plan := new(graph.Plan)
	planned, err := stages.Plan(plan, m, machines, lock, o)
	if err != nil {
		return nil, nil, nil, err
	}
	var targets []*graph.Node
	for _, pm := range planned {
		if c.ToRun {
			pm.Export = nil
		}
		targets = append(targets, pm.Targets()...)
	}
	return plan, planned, targets, keepsInputs(filepath.Join(e.root, "data", "disks"), plan)
}

// keepsInputs makes sure that no image that the plan reads lies where it puts
// another one.
func keepsInputs(disks string, plan *graph.Plan) error {
	disks, err := filepath.EvalSymlinks(disks)
	if err != nil {
		return nil // nothing is there yet
	}
	made := make(map[string]*graph.Node)
	for _, n := range plan.Nodes {
		if n.Deliver != "" {
			made[filepath.Base(n.Deliver)] = n
		}
	}
	for _, n := range plan.Nodes {
		var read []string
		for _, l := range n.Locals {
			if l.Name == "image" {
				read = append(read, l.Path)
			}
		}
		for _, s := range n.Shared {
			if strings.Contains(s.Source, "disks") {
				read = append(read, s.Source)
			}
		}
		for _, file := range read {
			file, err := filepath.EvalSymlinks(file)
			if by := made[filepath.Base(file)]; err == nil && by != nil && filepath.Dir(file) == disks {
				return usageError{fmt.Errorf("%s reads %s, which %s would replace (keep it under another name)", n.Name, file, by.Name)}
			}
		}
	}
	return nil
}

// rerun finds the stages to run again.
func (c *buildCmd) rerun(plan *graph.Plan) (func(*graph.Node) bool, error) {
	asked := func(n *graph.Node) bool { return n.Fixed == nil && strings.Contains(n.Name, c.Rebuild) }
	if !slices.ContainsFunc(plan.Nodes, asked) {
		return nil, usageError{fmt.Errorf("no stage has %q in its name (meros plan -v %s lists them)", c.Rebuild, c.Constellation)}
	}
	return asked, nil
}

// diskCollision finds a machine of another constellation whose disk would be
// the same file: a-b of c, and b-c of a, are both a-b-c.
func diskCollision(e *env, m *constellations.Manifest, machines []*constellations.Machine) error {
	for _, vm := range machines {
		whole := m.Name + "-" + vm.Name
		for i, c := range whole {
			other := whole[:i]
			if c != '-' || other == m.Name || !isConstellation(e, other) {
				continue
			}
			o, err := constellations.Find(e.root, other)
			if err != nil {
				continue // its own build tells
			}
			if _, err := o.Machine(whole[i+1:]); err == nil {
				return usageError{fmt.Errorf("%s/%s and %s/%s would have one disk, data/disks/%s.qcow2 (rename one of them)", m.Name, vm.Name, other, whole[i+1:], whole)}
			}
		}
	}
	return nil
}

// options are those of a plan for the machines, on this host.
func (w *workplace) options(e *env, m *constellations.Manifest, machines []*constellations.Machine, boot bool) (stages.Options, error) {
	self, err := os.Executable()
	return stages.Options{
		Root: e.root, Self: self, Host: runner.HostArch(), OCI: openOCI, Tools: stages.ToolIdentities(machines, boot, w.stats), URLs: newMirrors(m).urls, StatCache: w.stats,
	}, err
}

// sameProgram makes sure that what ran is this program: one that was installed
// in its place meanwhile would have other stages.
func sameProgram(run func(context.Context, runner.Spec, runner.Stdio) error) func(context.Context, runner.Spec, runner.Stdio) error {
	return func(ctx context.Context, s runner.Spec, stdio runner.Stdio) error {
		if err := run(ctx, s, stdio); err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		now, err := os.Stat(self)
		if err != nil {
			return fmt.Errorf("%w: it was replaced while it ran (build again)", err)
		}
		if then, err := os.Stat("/proc/self/exe"); err != nil || !os.SameFile(now, then) {
			return fmt.Errorf("%s was replaced while it ran (build again)", self)
		}
		return nil
	}
}
