// This file predicts the outcome of a build. It follows the rules of demand.go without
// running anything.

package graph

import (
	"time"

	"meros/cache"
)

// Outcome is the expected fate of a node in a build.
type Outcome uint8

const (
	WouldReuse Outcome = iota // the cache has the outputs, or the build does not need their bytes
	WouldRun                  // the cache lacks the entry or the bytes
	MayRun                    // depends on a node below that runs first: if its output is unchanged, this node does not run
)

// Preview is the expected outcome of one node, with its reason.
type Preview struct {
	Node    *Node
	Outcome Outcome
	Reason  string         // of WouldRun: the cache miss
	After   *Node          // of MayRun: the node below that runs first
	Action  cache.ActionID // zero if unknown until a node below has run
	KeyText []byte         // nil if Action is zero
}

// PreviewBuild returns the expected outcome of [Build] for the targets and all nodes
// below them, in the order of the plan. It runs and writes nothing.
func PreviewBuild(p *Plan, targets []*Node, store *cache.Store) []Preview {
	f := &previewer{store: store, vertices: make([]previewed, len(p.Nodes))}
	for _, t := range targets {
		f.vertices[t.id].reached, f.vertices[t.id].wanted = true, true
	}
	for i := len(p.Nodes) - 1; i >= 0; i-- {
		for _, in := range p.Nodes[i].Inputs {
			f.vertices[in.Node.id].reached = f.vertices[in.Node.id].reached || f.vertices[i].reached
		}
	}
	for i, n := range p.Nodes {
		if f.vertices[i].reached {
			f.key(n)
		}
	}
	for i := len(p.Nodes) - 1; i >= 0; i-- {
		if f.vertices[i].reached {
			f.decide(p.Nodes[i])
		}
	}
	var all []Preview
	for i, n := range p.Nodes {
		if v := &f.vertices[i]; v.reached {
			v.Node = n
			all = append(all, v.Preview)
		}
	}
	return all
}

type previewer struct {
	store    *cache.Store
	vertices []previewed
}

type previewed struct {
	Preview
	reached, wanted bool                // it is a target or below one; its bytes are needed
	perhaps         *Node               // runs before a node that may want the bytes of this one; or nil
	outputs         map[string]Artifact // nil if unknown
}

// key finds the key and the outputs of n, as far as they can be known.
func (f *previewer) key(n *Node) {
	v := &f.vertices[n.id]
	if n.Fixed != nil {
		v.outputs = n.Fixed
	}
	inputs := make([]*previewed, len(n.Inputs))
	for i, in := range n.Inputs {
		inputs[i] = &f.vertices[in.Node.id]
		if inputs[i].outputs == nil {
			if v.After = in.Node; inputs[i].After != nil {
				v.After = inputs[i].After
			}
			return
		}
	}
	v.KeyText = KeyText(n, digestsOf(n, func(i int) map[string]Artifact { return inputs[i].outputs }))
	v.Action = cache.NewActionID(v.KeyText)
	if v.outputs != nil {
		return
	}
	e, err := f.store.Lookup(v.Action)
	if err != nil {
		v.Reason = err.Error()
		return
	}
	v.outputs = e.Outputs
}

// decide sets the outcome of n. It needs the outcomes of all users of n.
func (f *previewer) decide(n *Node) {
	v := &f.vertices[n.id]
	switch {
	case v.outputs == nil && v.After != nil:
		v.Outcome = MayRun
	case v.outputs == nil:
		v.Outcome = WouldRun
	case v.wanted || v.perhaps != nil:
		if err := present(f.store, n, v.outputs); err == nil {
			break
		} else if v.wanted {
			v.Outcome, v.Reason = WouldRun, err.Error()
		} else {
			v.Outcome, v.After = MayRun, v.perhaps
		}
	}
	for _, in := range n.Inputs {
		below := &f.vertices[in.Node.id]
		switch v.Outcome {
		case WouldRun:
			below.wanted = true
		case MayRun:
			below.perhaps = v.After
		}
	}
}

// Estimate returns the duration of the previewed build on a number of CPUs. It is the
// longer of two bounds: the longest chain, and the total work divided by the CPUs.
func Estimate(all []Preview, h History, cpus int) time.Duration {
	ends := make(map[*Node]time.Duration)
	var sum, longest time.Duration
	for _, f := range all {
		var start time.Duration
		for _, in := range f.Node.Inputs {
			start = max(start, ends[in.Node])
		}
		end := start
		if f.Outcome != WouldReuse {
			d := h.Expect(f.Node)
			end, sum = start+d, sum+d
		}
		ends[f.Node] = end
		longest = max(longest, end)
	}
	return max(longest, sum/time.Duration(max(cpus, 1)))
}
