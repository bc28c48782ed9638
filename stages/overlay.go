// This file plans the layer of the files that are copied into a machine.

package stages

import (
	"path/filepath"

	"meros/constellations"
	"meros/graph"
)

const overlayRevision = 4

// InCommon begins the names of the inputs [Includes] and [Owners] that all
// machines share.
const InCommon = "common "

// overlay returns the layer of the files to copy in, or nil if there are none.
func (pl *planner) overlay(vm *constellations.Machine, section *constellations.SectionLock, below []*graph.Node) (*graph.Node, error) {
	n := &graph.Node{
		Stage: "overlay", Revision: overlayRevision, Name: pl.name(vm, "overlay"),
		Params: []graph.Param{epoch(section)}, Inputs: trees(InLower, below),
		Outputs: []string{OutLayer, OutAccounts, OutDirectories},
	}
	files := false
	for i, dir := range sources(vm) {
		for _, kind := range []string{Includes, Owners} {
			l, err := pl.local([]string{InCommon, ""}[i]+kind, filepath.Join(dir, kind))
			if err != nil {
				return nil, err
			}
			if l != nil {
				n.Locals = append(n.Locals, *l)
				files = files || kind == Includes
			}
		}
	}
	if !files {
		return nil, nil
	}
	return pl.plan.Add(n), nil
}
