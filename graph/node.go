// Package graph plans and runs a directed acyclic graph of actions whose
// results are kept in a content-addressed cache.
//
// A [Plan] is inert data: nodes, each saying what it would run and on which
// inputs. [Build] asks for the last nodes first and works its way down only
// as far as the cache has no answer. The package knows no stage by name.
package graph

import (
	"fmt"
	"strings"

	"meros/cache"
	"meros/runner"
)

// Param is one named value of a node.
type Param struct{ Name, Value string }

// Form says how an input is shown to a node's process.
type Form uint8

const (
	File Form = iota // the artifact's bytes, as a file
	Tree             // the artifact unpacked, as a directory
)

// Input is an output of another node. Several inputs may share one name: they
// are a list, and its order is part of the key.
type Input struct {
	Name   string
	Node   *Node
	Output string
	Form   Form
}

// Local is a file or directory of the host that a node reads, as [ReadLocal]
// found it when the plan was made. Its path is in no key.
type Local struct {
	Name    string
	Path    string
	Skip    []string // what of a directory is no part of it, see [Skipped]
	Digest  string
	Entries []string // a line for each file; nil where there are very many

	seen fingerprint // of a directory, when it was read
}

// Needs is what a node takes from the build's budget while it runs.
type Needs struct {
	CPU      int   // tokens; 0 counts as 1, and more than there are as all
	Memory   int64 // bytes
	Download bool  // takes a download slot instead of CPU tokens
}

// Artifact is an output: what plans are made of and the cache keeps.
type Artifact = cache.Artifact

// Node is one use of a stage in a plan.
type Node struct {
	Stage    string
	Revision int    // of the stage; bumped when its output changes
	Name     string // for people, such as "lab/web hooks"; in no key
	Params   []Param
	Hints    []Param // like Params, but they cannot change the output: in no key
	Inputs   []Input
	Locals   []Local
	Outputs  []string
	Needs    Needs
	Network  runner.Network // what the process may reach
	Impure   bool           // its key does not determine its output, because foreign code in it may reach a network
	Devices  []string       // device nodes of the host it may use where they are, such as /dev/fuse
	Shared   []runner.Mount // directories of the host that it may use where they are, such as one of partial downloads

	// Fixed is set where the outputs are known before anything runs (a fetch
	// with a pinned digest); such a node needs no entry in the cache.
	Fixed map[string]Artifact

	// Deliver, if set, is the path that the node's only output is put at,
	// instead of into the cache.
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

// Plan is a set of nodes in which every input stands before its user.
type Plan struct {
	Nodes []*Node
	byID  map[string]*Node
}

// Add puts n into the plan and returns the node to use in its place: if an
// equal one is there already (also one of another machine or constellation)
// that one, else n. The inputs of n must have been added before.
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

// identity is equal for two nodes that would do the same to the same inputs.
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

// String is the plan as text, for golden tests and people: a line for each
// node, its parameters and inputs below it.
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
