// This file plans the base system of a Debian or Ubuntu suite. It also chooses the
// shared layers that any machine begins with.

package stages

import (
	"fmt"

	"meros/constellations"
	"meros/graph"
)

// Names of the plan and the step, see names.go.
const (
	ParamDistribution = "distribution" // "" is Debian
	ParamEngine       = "engine"       // "meros" or "debootstrap"
	ParamSuite        = "suite"        // of the distribution
)

const bootstrapRevision = 3

// bootstrapMemory is the most memory that unpacking and configuring a base system
// takes, bytes.
const bootstrapMemory = 1 << 30

// base returns the layers that all machines with the same packages share. They are
// the base system of the suite, and its further packages if there are any.
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

// baseSystem returns the name of a suite and architecture for people.
func baseSystem(vm *constellations.Machine) string {
	if vm.Distribution == "alpine" {
		return "alpine " + vm.Suite + " " + vm.Arch
	}
	return vm.Suite + " " + vm.Arch
}

// baseName returns the name of a shared base system for people.
func baseName(vm *constellations.Machine) string {
	name := baseSystem(vm)
	if vm.Bootstrap == "debootstrap" {
		name += " debootstrap"
	}
	return name
}

// makeBase returns the layers of a Debian or Ubuntu system, the lowest first.
func (pl *planner) makeBase(vm *constellations.Machine, section *constellations.SectionLock) ([]*graph.Node, error) {
	lower := []*graph.Node{pl.bootstrap(vm, section)}
	packages, err := pl.packages(vm, section, lower)
	if err != nil {
		return nil, err
	}
	if packages != nil {
		lower = append(lower, packages)
	}
	return lower, nil
}

// bootstrap returns the base system of a suite.
func (pl *planner) bootstrap(vm *constellations.Machine, section *constellations.SectionLock) *graph.Node {
	params := []graph.Param{{Name: ParamEngine, Value: vm.Bootstrap}, {Name: ParamSuite, Value: vm.Suite}, {Name: ParamArch, Value: vm.Arch}, epoch(section)}
	if vm.Mirror != "" {
		params = append(params, graph.Param{Name: ParamMirror, Value: vm.Mirror})
	}
	if vm.Distribution == "ubuntu" {
		params = append(params, graph.Param{Name: ParamDistribution, Value: vm.Distribution})
	}
	if vm.Bootstrap == "debootstrap" {
		params = append(params, pl.tools("debootstrap")...)
	}
	params = append(params, pl.foreign(vm)...)
	return pl.plan.Add(&graph.Node{
		Stage: "bootstrap", Revision: bootstrapRevision, Name: baseName(vm) + " bootstrap",
		Params: params, Inputs: pl.fetchAll(section, section.Base), Outputs: []string{OutLayer, OutAccounts},
		Needs: graph.Needs{CPU: 2, Memory: bootstrapMemory},
	})
}
