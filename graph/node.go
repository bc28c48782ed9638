// Package graph plans and runs a directed acyclic graph of actions, and stores their
// results in a content-addressed cache.
//
// A [Plan] is inert data: each node describes a process and its inputs. [Build] asks for
// the last nodes first, and for the nodes below only if the cache has no answer. The
// package does not know any stage by name.
package graph

import (
	"fmt"
	"strings"

	"meros/cache"
	"meros/runner"
)

// Param is one named value of a node.
type Param struct{ Name, Value string }

// Form is the form in which a node's process sees an input.
type Form uint8

const (
	File Form = iota // the artifact's bytes, as a file
	Tree             // the artifact unpacked, as a directory
)

// Input is an output of another node. Inputs that share a name are a list, and its order
// is part of the key.
type Input struct {
	Name   string
	Node   *Node
	Output string
	Form   Form
}

// Local is a file or directory of the host that a node reads, as [ReadLocal] found it when
// the plan was made. Keys do not contain its path.
type Local struct {
	Name    string
	Path    string
	Skip    []string // patterns of the entries of a directory to leave out, see [Skipped]
	Digest  string
	Entries []string // a line for each file; nil if there are more than maxLines

	seen fingerprint // of a directory, taken before it was read
}

// Needs is the part of the build's budget that a node holds while it runs.
type Needs struct {
	CPU      int   // tokens; 0 counts as 1, and more than the budget as all of it
	Memory   int64 // bytes
	Download bool  // takes a download slot instead of CPU tokens
}

// Artifact is an output of a node, identified by the digest of its bytes.
type Artifact = cache.Artifact

// Node is one use of a stage in a plan.
type Node struct {
	Stage    string
	Revision int    // of the stage; bumped when its output changes for the same key
	Name     string // for people, such as "lab/web hooks"; not in the key
	Params   []Param
	Hints    []Param // like Params, but they cannot change the output, so they are not in the key
	Inputs   []Input
	Locals   []Local
	Outputs  []string
	Needs    Needs
	Network  runner.Network // network that the process may reach
	Impure   bool           // the key does not determine the output: the process may use a network, or never gives the same bytes twice
	Devices  []string       // device nodes that the process may use if the host has them, such as /dev/fuse
	Shared   []runner.Mount // directories that the process may use if the host has them, such as the partial downloads

	// Fixed has the outputs if they are known before anything runs, as for a fetch with
	// a pinned digest. The cache has no entry for such a node.
	Fixed map[string]Artifact

	// Deliver, if set, is the path that the node's only output is written to, instead of
	// the cache.
	Deliver string

	id int // position in the plan
}

// Param returns the value of the parameter name, or "".
func (n *Node) Param(name string) string {
	for _, p := range n.Params {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// Plan is a list of nodes in which every input comes before its users.
type Plan struct {
	Nodes []*Node
	byID  map[string]*Node
}

// Add adds n to the plan and returns the node to use in its place. If the plan has an
// equal node already, perhaps of another machine or constellation, that is the node to
// use. Otherwise it is n. The inputs of n must have been added before.
func (p *Plan) Add(n *Node) *Node {
	if p.byID == nil {
		p.byID = make(map[string]*Node)
	}
	id := p.identity(n)
	if have, ok := p.byID[id]; ok {
		return have
	}
	n.id = len(p.Nodes)
	p.Nodes = append(p.Nodes, n)
	p.byID[id] = n
	return n
}

// identity returns the same string for two nodes that do the same with the same inputs.
func (p *Plan) identity(n *Node) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %d %q\n", n.Stage, n.Revision, n.Deliver)
	for _, x := range n.Params {
		fmt.Fprintf(&b, "p%q %q\n", x.Name, x.Value)
	}
	for _, in := range n.Inputs {
		if in.Node.id >= len(p.Nodes) || p.Nodes[in.Node.id] != in.Node {
			panic(fmt.Sprintf("graph: node %q is used by %q before it is in the plan", in.Node.Name, n.Name))
		}
		fmt.Fprintf(&b, "i%q %d %q %d\n", in.Name, in.Node.id, in.Output, in.Form)
	}
	for _, l := range n.Locals {
		fmt.Fprintf(&b, "l%q %q\n", l.Name, l.Digest)
	}
	for _, o := range n.Outputs {
		fmt.Fprintf(&b, "o%q %s\n", o, n.Fixed[o].Digest)
	}
	return b.String()
}

// String returns the plan as text, for golden tests and people. Each node has a line, and
// below it lines for its parameters, local files, inputs and outputs.
func (p *Plan) String() string {
	var b strings.Builder
	for _, n := range p.Nodes {
		fmt.Fprintf(&b, "%s (%s r%d)", n.Name, n.Stage, n.Revision)
		if n.Impure {
			b.WriteString(" impure")
		}
		b.WriteByte('\n')
		for _, x := range n.Params {
			fmt.Fprintf(&b, "  param %s %s\n", x.Name, quote(x.Value))
		}
		for _, l := range n.Locals {
			fmt.Fprintf(&b, "  local %s %s\n", l.Name, l.Digest)
		}
		for _, in := range n.Inputs {
			fmt.Fprintf(&b, "  input %s <- %s %s\n", in.Name, in.Node.Name, in.Output)
		}
		for _, o := range n.Outputs {
			fmt.Fprintf(&b, "  output %s\n", o)
		}
	}
	return b.String()
}
