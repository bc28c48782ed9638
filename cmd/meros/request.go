// This file holds a request to build machines, apart from the flags of the verb that
// fills it. It knows no verb.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"meros/cache"
	"meros/constellations"
	"meros/graph"
	"meros/runner/hint"
	"meros/stages"
)

// request says which machines to build, and how.
type request struct {
	Constellation string
	Machines      []string   // names; none means all
	RootfsOnly    bool       // leave out kernels and initrds
	Boot          bool       // boot each machine once
	ToRun         bool       // leave out the exports that the manifest asks for
	Use           givenImage // the base of the one machine; "" means the manifest's

	Locked       bool          // fail rather than change the lock
	Timeout      time.Duration // of one hook; 0 means none
	Jobs         int           // CPU tokens; 0 means one for each CPU
	Check        bool          // build everything twice and compare
	KeepGoing    bool          // after a failure, build what does not depend on it
	Rebuild      string        // run the stages again whose names contain this
	ShellOnError bool          // open a shell in the stage that fails

	quiet   bool // print nothing unless a stage runs
	advised bool // the user knows that the image keeps its own packages
}

// args returns the command line that builds the request in another process.
func (r *request) args() []string {
	return commandLine(append([]string{"build", r.Constellation}, r.Machines...), map[string]any{
		"rootfs-only": r.RootfsOnly, "boot": r.Boot, "to-run": r.ToRun, "use": string(r.Use), "locked": r.Locked, "timeout": r.Timeout, "jobs": r.Jobs,
		"check": r.Check, "keep-going": r.KeepGoing, "rebuild": r.Rebuild, "shell-on-error": r.ShellOnError,
	})
}

// commandLine returns the words, followed by the flags that are not zero, sorted
// by name.
func commandLine(words []string, flags map[string]any) []string {
	line := slices.Clone(words)
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		switch v := flags[name].(type) {
		case bool:
			if v {
				line = append(line, "--"+name)
			}
		case []string:
			for _, s := range v {
				line = append(line, "--"+name+"="+s)
			}
		default:
			if !reflect.ValueOf(v).IsZero() {
				line = append(line, fmt.Sprintf("--%s=%v", name, v))
			}
		}
	}
	return line
}

// load reads the manifest and returns it with the requested machines.
func (r *request) load(e *env) (*constellations.Manifest, []*constellations.Machine, error) {
	m, err := constellations.Find(e.root, r.Constellation)
	if err != nil {
		return nil, nil, usageIfMissing(err)
	}
	machines, err := selectMachines(m, r.Machines)
	if err == nil && r.Use != "" {
		err = r.useImage(e, machines)
	}
	return m, machines, err
}

// planned is the plan of a request.
type planned struct {
	plan     *graph.Plan
	machines []*stages.Machine
	targets  []*graph.Node // the last nodes
}

// plan plans the machines. It runs nothing.
func (r *request) plan(e *env, w *workspace, m *constellations.Manifest, machines []*constellations.Machine, lock *constellations.Lock) (*planned, error) {
	o, err := w.options(e, m, machines, r.Boot)
	if err != nil {
		return nil, err
	}
	o.RootfsOnly, o.Boot = r.RootfsOnly, r.Boot
	if r.Timeout > 0 {
		o.Timeout = r.Timeout.String()
	}
	p := &planned{plan: new(graph.Plan)}
	if p.machines, err = stages.Plan(p.plan, m, machines, lock, o); err != nil {
		return nil, err
	}
	for _, pm := range p.machines {
		if r.ToRun {
			pm.Export = nil
		}
		p.targets = append(p.targets, pm.Targets()...)
	}
	return p, keepsInputs(e.disksDir(), p.plan)
}

// preview previews a build of the request. It changes nothing.
func (r *request) preview(e *env) (*preview, error) {
	m, machines, err := r.load(e)
	if err != nil {
		return nil, err
	}
	lock, missing, err := missingPins(m, stages.Needs(machines))
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, hint.Add(fmt.Errorf("%s does not pin %s, so its digest is not known yet", lockFile(m), missing[0]), "`%s` pins it", pinnedBy(m, missing[0]))
	}
	w := e.workspaceToRead()
	if w.store, err = e.openStore(true); err != nil {
		return nil, err
	}
	planned, err := r.plan(e, w, m, machines, lock)
	if err != nil {
		return nil, err
	}
	return newPreview(e, w, m, planned), nil
}

// rerun returns a function that reports whether a node is to run again.
func (r *request) rerun(plan *graph.Plan) (func(*graph.Node) bool, error) {
	asked := func(n *graph.Node) bool { return n.Fixed == nil && strings.Contains(n.Name, r.Rebuild) }
	if !slices.ContainsFunc(plan.Nodes, asked) {
		return nil, usageError{hint.Add(fmt.Errorf("no stage has %q in its name", r.Rebuild), "`meros plan -v %s` lists the stages", r.Constellation)}
	}
	return asked, nil
}

// built is the result of a build, for the verbs that continue from it.
type built struct {
	manifest *constellations.Manifest
	machines []*stages.Machine
	result   *graph.Result
	store    *cache.Store
	close    func() // until it is called, no collection removes the outputs
}

// build builds the request in this process, which must be able to make sandboxes.
func (r *request) build(e *env) (b *built, err error) {
	m, machines, err := r.load(e)
	if err != nil {
		return nil, err
	}
	if err := diskCollision(e, m, machines); err != nil {
		return nil, err
	}
	if !r.quiet {
		if err := adviseUnread(e, m); err != nil {
			return nil, err
		}
	}
	w, err := openWorkspace(e)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	lock, err := ensureLock(e, m, stages.Needs(machines), r.Locked)
	if err != nil {
		return nil, err
	}
	p, err := r.plan(e, w, m, machines, lock)
	if err != nil {
		return nil, err
	}
	result, err := r.execute(e, w, m.Name, p)
	if err != nil {
		return nil, err
	}
	adviseHooks(e, p.machines, result)
	for _, pm := range p.machines {
		if pm.Export == nil || r.quiet {
			continue
		}
		if err := tellOmitted(e, w, pm, pm.Format, result); err != nil {
			return nil, err
		}
	}
	if r.Check {
		if err := w.check(e, p.plan, p.targets, result, r.Jobs); err != nil {
			return nil, err
		}
	}
	return &built{m, p.machines, result, w.store, w.close}, nil
}

// execute runs the plan, and opens a shell in a failed stage if that is
// requested.
func (r *request) execute(e *env, w *workspace, name string, p *planned) (*graph.Result, error) {
	x := execution{name: name, verb: "build", jobs: r.Jobs, keepGoing: r.KeepGoing, quiet: r.quiet}
	if r.Rebuild != "" {
		var err error
		if x.rerun, err = r.rerun(p.plan); err != nil {
			return nil, err
		}
	}
	if r.RootfsOnly {
		x.verb = "build --rootfs-only"
	}
	for _, pm := range p.machines {
		x.machines = append(x.machines, pm.Name)
	}
	result, err := w.execute(e, p.plan, p.targets, x)
	if ne := (*graph.NodeError)(nil); r.ShellOnError && errors.As(err, &ne) && e.ctx.Err() == nil {
		e.ui.fail(err)
		if err := w.shell(e, p.plan, ne.Node); err != nil {
			e.ui.fail(err)
		}
		return nil, exitStatus(exitFailed)
	}
	return result, err
}

// useImage makes the image the base of the machine.
func (r *request) useImage(e *env, machines []*constellations.Machine) error {
	if len(machines) != 1 {
		return usageError{hint.Add(fmt.Errorf("--use is for one machine, not for %d", len(machines)), "name one machine after the constellation")}
	}
	base, err := baseFromHere(string(r.Use))
	if err != nil {
		return usageError{fmt.Errorf("--use %s: %w", r.Use, err)}
	}
	if len(machines[0].Packages) > 0 && !e.entered && !r.advised {
		r.advised = true
		e.ui.note("%s keeps its own packages; those of the manifest are not installed", r.Use)
	}
	r.Use = givenImage(base) // the process in the namespace may run elsewhere
	vm := *machines[0]       // a copy: locking and pruning need the manifest as it is
	if vm.Base != base {
		vm.Base, vm.BaseSHA256 = base, ""
	}
	vm.Packages = nil
	machines[0] = &vm
	return nil
}

// baseFromHere turns a base on the command line into one of a manifest. Paths
// are relative to the working directory, not to the project. A file must exist;
// a base on a network is checked when it is locked or fetched.
func baseFromHere(use string) (string, error) {
	if problem, example := constellations.BaseProblem(use); problem != "" {
		return "", hint.Add(errors.New(problem), "write it as %s", example)
	}
	if constellations.ImageURL(use) || constellations.OfRegistry(use) {
		return use, nil
	}
	name, containers := strings.CutPrefix(use, stages.OCIPrefix)
	file, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	if containers {
		_, _, err := stages.FindOCI("", nil, file)
		return stages.OCIPrefix + file, err
	}
	err = stages.ImageFile(file, true)
	if errors.Is(err, fs.ErrNotExist) {
		err = hint.Add(errors.New("there is no such image"), "an image of a registry is docker://NAME:TAG")
	}
	return file, err
}

// keepsInputs refuses a plan that would replace an image that it reads.
func keepsInputs(disks string, plan *graph.Plan) error {
	disks, err := filepath.EvalSymlinks(disks)
	if err != nil {
		return nil // there is no image yet
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
			if l.Name == stages.InImage {
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
				return usageError{hint.Add(fmt.Errorf("%s reads %s, which %s would replace", n.Name, file, by.Name), "give the file another name")}
			}
		}
	}
	return nil
}

// diskCollision refuses a machine whose disk would have the file name of another
// constellation's: c of a-b, and b-c of a, both become a-b-c.
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
				continue // a build of that constellation reports it
			}
			if _, err := o.Machine(whole[i+1:]); err == nil {
				return usageError{hint.Add(fmt.Errorf("%s/%s and %s/%s would share the disk data/disks/%s.qcow2", m.Name, vm.Name, other, whole[i+1:], whole), "rename one of the machines")}
			}
		}
	}
	return nil
}

// selectMachines returns the named machines, or all if names is empty.
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

// usageIfMissing makes err a usage error, unless it lists problems of a manifest.
func usageIfMissing(err error) error {
	if errs := (*constellations.Errors)(nil); err == nil || errors.As(err, &errs) {
		return err
	}
	return usageError{err}
}

// givenImage is the value of --use: a file, a URL, oci:PATH or docker://NAME:TAG.
type givenImage string

// Decode implements kong.MapperValue. It refuses an empty name, which an unset
// variable gives: a build without --use would make another machine.
func (g *givenImage) Decode(ctx *kong.DecodeContext) error {
	var name string
	if err := ctx.Scan.PopValueInto("image", &name); err != nil {
		return err
	}
	if name == "" {
		return hint.Add(errors.New("the name of the image is empty"), "a variable may be unset")
	}
	*g = givenImage(name)
	return nil
}
