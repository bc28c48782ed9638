package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"meros/constellations"
	"meros/graph"
	"meros/stages"
)

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

// rerun finds the stages to run again.
func (c *buildCmd) rerun(plan *graph.Plan) (func(*graph.Node) bool, error) {
	asked := func(n *graph.Node) bool { return n.Fixed == nil && strings.Contains(n.Name, c.Rebuild) }
	if !slices.ContainsFunc(plan.Nodes, asked) {
		return nil, usageError{fmt.Errorf("no stage has %q in its name (meros plan -v %s lists them)", c.Rebuild, c.Constellation)}
	}
	return asked, nil
}

// useImage makes the image the machine's base.
func (c *buildCmd) useImage(e *env, machines []*constellations.Machine) error {
	if len(machines) != 1 {
		return usageError{fmt.Errorf("--use is for one machine, and these are %d (name one)", len(machines))}
	}
	base, err := baseFromHere(string(c.Use))
	if err != nil {
		return usageError{fmt.Errorf("--use %s: %w", c.Use, err)}
	}
	if len(machines[0].Packages) > 0 && !e.entered && !c.advised {
		c.advised = true
		e.ui.note("the manifest's packages are not installed into %s: it has its own", c.Use)
	}
	c.Use = givenImage(base) // the namespace's process may be elsewhere
	vm := *machines[0]       // the manifest stays what it is: its lock is kept by it
	if vm.Base != base {
		vm.Base, vm.BaseSHA256 = base, ""
	}
	vm.Packages = nil
	machines[0] = &vm
	return nil
}

// baseFromHere is what a command line calls a base, as a manifest does: paths
// are relative to where the user is, and not to the project. What is in a file
// has to be there; of what is in a network, the lock or its server tells.
func baseFromHere(use string) (string, error) {
	if problem, right := constellations.BaseProblem(use); problem != "" {
		return "", fmt.Errorf("%s (such as %s)", problem, right)
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
		err = errors.New("there is no such image (one of a registry is docker://NAME:TAG)")
	}
	return file, err
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

// givenImage is the value of --use.
type givenImage string

// Decode implements kong.MapperValue. An image without a name, of a variable that
// is not set, is not as good as none: another machine would be made.
func (g *givenImage) Decode(ctx *kong.DecodeContext) error {
	var name string
	if err := ctx.Scan.PopValueInto("image", &name); err != nil {
		return err
	}
	if name == "" {
		return errors.New("no image is named (is a variable empty?)")
	}
	*g = givenImage(name)
	return nil
}
