package stages

import (
	"meros/graph"
)

const copyRevision = 1

// Copy adds a node that puts an output where the user looks for it.
func Copy(p *graph.Plan, from *graph.Node, output, name, file string) *graph.Node {
	return p.Add(&graph.Node{
		Stage: "copy", Revision: copyRevision, Name: name,
		Inputs: []graph.Input{{Name: "file", Node: from, Output: output}}, Outputs: []string{"file"}, Deliver: file,
	})
}
