package stages

import (
	"fmt"
	"strings"

	"meros/constellations"
	"meros/graph"
)

const packagesRevision = 3

// packages is the layer of the packages that a machine has besides the base
// system, or nil if there are none.
func (pl *planner) packages(vm *constellations.Machine, section *constellations.SectionLock, lower []*graph.Node) (*graph.Node, error) {
	if len(vm.Packages) == 0 {
		return nil, nil
	}
	set := section.Set(vm.Packages)
	if set == nil {
		return nil, fmt.Errorf("the lock does not have its packages (meros update %s %s)", pl.m.Name, vm.Name)
	}
	if len(set.Packages) == 0 {
		return nil, nil // all of them are in the base
	}
	return pl.plan.Add(&graph.Node{
		Stage: "packages", Revision: packagesRevision, Name: fmt.Sprintf("%s packages (%d)", baseName(vm), len(set.Packages)),
		Params: append([]graph.Param{epoch(section), {Name: ParamNames, Value: strings.Join(set.Names, " ")}}, pl.foreign(vm)...), Inputs: append(trees(InLower, lower), pl.fetchAll(section, set.Packages)...),
		Outputs: []string{OutLayer, OutAccounts}, Needs: graph.Needs{CPU: 1, Memory: bootstrapMemory},
	}), nil
}
