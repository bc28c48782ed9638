// This file plans the copy of an output to a place outside of the cache.

package stages

import (
	"meros/graph"
)

// Names of the plan and the step, see names.go.
const (
	InFile = "file"
)

const copyRevision = 1

// Copy adds a node that delivers an output of from to the path file. Errors and
// progress call the node by name.
func Copy(p *graph.Plan, from *graph.Node, output, name, file string) *graph.Node {
	return p.Add(&graph.Node{
		Stage: "copy", Revision: copyRevision, Name: name,
		Inputs: []graph.Input{{Name: InFile, Node: from, Output: output}}, Outputs: []string{OutFile}, Deliver: file,
	})
}
