package stages

import (
	"fmt"
	"path"
	"strings"

	"meros/constellations"
	"meros/graph"
)

// The revision of a stage is bumped whenever it gives other bytes for the
// same key text.
const (
	fetchRevision     = 1
	bootstrapRevision = 3
	packagesRevision  = 3
)

// bootstrapMemory is what unpacking and configuring a base system takes at
// the most, bytes.
const bootstrapMemory = 1 << 30

// fetch is one file of an archive. Its digest is known, so its outputs are.
func (pl *planner) fetch(section *constellations.SectionLock, p constellations.Package) *graph.Node {
	return pl.fetchURLs(path.Base(p.Filename), pl.URLs(section, p), p.SHA256, p.Size)
}

func (pl *planner) fetchAll(section *constellations.SectionLock, ps []constellations.Package) []graph.Input {
	in := make([]graph.Input, len(ps))
	for i, p := range ps {
		in[i] = graph.Input{Name: "deb", Node: pl.fetch(section, p), Output: "file"}
	}
	return in
}

// base is the layers every machine with the same packages shares: the base
// system of the suite, and the further packages if there are any.
func (pl *planner) base(vm *constellations.Machine, section *constellations.SectionLock) ([]*graph.Node, error) {
	key := fmt.Sprintf("%p %s %q %q %s", section, vm.Bootstrap, vm.Packages, vm.Keys, vm.Setup)
	if lower, ok := pl.bases[key]; ok {
		return lower, nil
	}
	layers := pl.makeBase
	if vm.Distribution == "alpine" {
		layers = pl.alpineBase
	}
	lower, err := layers(vm, section)
	if err == nil {
		pl.bases[key] = lower
	}
	return lower, err
}

// baseSystem is what people call a distribution's suite.
func baseSystem(vm *constellations.Machine) string {
	if vm.Distribution == "alpine" {
		return "alpine " + vm.Suite + " " + vm.Arch
	}
	return vm.Suite + " " + vm.Arch
}

// baseName is what people call the system that a machine shares with others.
func baseName(vm *constellations.Machine) string {
	name := baseSystem(vm)
	if vm.Bootstrap == "debootstrap" {
		name += " debootstrap"
	}
	return name
}

func (pl *planner) makeBase(vm *constellations.Machine, section *constellations.SectionLock) ([]*graph.Node, error) {
	params := []graph.Param{{Name: "engine", Value: vm.Bootstrap}, {Name: "suite", Value: vm.Suite}, {Name: "arch", Value: vm.Arch}, epoch(section)}
	if vm.Mirror != "" {
		params = append(params, graph.Param{Name: "mirror", Value: vm.Mirror})
	}
	if vm.Distribution == "ubuntu" {
		params = append(params, graph.Param{Name: "distribution", Value: vm.Distribution})
	}
	if vm.Bootstrap == "debootstrap" {
		params = append(params, pl.tools("debootstrap")...)
	}
	params = append(params, pl.foreign(vm)...)
	bootstrap := pl.plan.Add(&graph.Node{
		Stage: "bootstrap", Revision: bootstrapRevision, Name: baseName(vm) + " bootstrap",
		Params: params, Inputs: pl.fetchAll(section, section.Base), Outputs: []string{"layer", "accounts"},
		Needs: graph.Needs{CPU: 2, Memory: bootstrapMemory},
	})
	lower := []*graph.Node{bootstrap}
	if len(vm.Packages) == 0 {
		return lower, nil
	}
	set := section.Set(vm.Packages)
	if set == nil {
		return nil, fmt.Errorf("the lock does not have its packages (meros update %s %s)", pl.m.Name, vm.Name)
	}
	if len(set.Packages) == 0 {
		return lower, nil // all of them are in the base
	}
	packages := pl.plan.Add(&graph.Node{
		Stage: "packages", Revision: packagesRevision, Name: fmt.Sprintf("%s packages (%d)", baseName(vm), len(set.Packages)),
		Params: append([]graph.Param{epoch(section), {Name: "names", Value: strings.Join(set.Names, " ")}}, pl.foreign(vm)...), Inputs: append(trees("lower", lower), pl.fetchAll(section, set.Packages)...),
		Outputs: []string{"layer", "accounts"}, Needs: graph.Needs{CPU: 1, Memory: bootstrapMemory},
	})
	return append(lower, packages), nil
}
