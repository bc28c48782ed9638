// This file plans the patches of a kernel's source.

package stages

import (
	"path"

	"meros/constellations"
	"meros/graph"
)

const kernelPatchRevision = 1

// kernelPatch returns the layer of the files that the patches change, or nil if there
// are no patches.
func (pl *planner) kernelPatch(vm *constellations.Machine, inputs []graph.Input) (*graph.Node, error) {
	if len(vm.Kernel.Patches) == 0 {
		return nil, nil
	}
	n := &graph.Node{
		Stage: "kernel-patch", Revision: kernelPatchRevision, Name: kernelName(vm.Kernel) + " patches",
		Inputs: inputs, Outputs: []string{OutLayer},
	}
	for _, p := range vm.Kernel.Patches {
		file, err := pl.find("patch", p)
		if err != nil {
			return nil, err
		}
		l, err := pl.file(path.Base(p), file)
		if err != nil {
			return nil, err
		}
		n.Locals = append(n.Locals, *l)
	}
	return pl.plan.Add(n), nil
}
