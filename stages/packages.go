// This file plans the packages that a Debian or Ubuntu machine has besides its base
// system.

package stages

import (
	"fmt"
	"strings"

	"meros/constellations"
	"meros/graph"
)

const packagesRevision = 3

// packages returns the layer of the packages that a machine has besides the base
// system, or nil if there are none.
func (pl *planner) packages(vm *constellations.Machine, section *constellations.SectionLock, lower []*graph.Node) (*graph.Node, error) {
	if len(vm.Packages) == 0 {
		return nil, nil
	}
	set := section.Set(vm.Packages)
	if set == nil {
		return nil, pl.notLocked("its packages", vm)
	}
	if len(set.Packages) == 0 {
		return nil, nil // the base system has all of them
	}
	return pl.plan.Add(&graph.Node{
		Stage: "packages", Revision: packagesRevision, Name: fmt.Sprintf("%s packages (%d)", baseName(vm), len(set.Packages)),
		Params: append([]graph.Param{epoch(section), {Name: ParamNames, Value: strings.Join(set.Names, " ")}}, pl.foreign(vm)...), Inputs: append(trees(InLower, lower), pl.fetchAll(section, set.Packages)...),
		Outputs: []string{OutLayer, OutAccounts}, Needs: graph.Needs{CPU: 1, Memory: bootstrapMemory},
	}), nil
}
