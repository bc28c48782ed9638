// This file holds the interface of a build: its options, its result and [Build].
// demand.go finds the nodes that must run, schedule.go starts them, run.go runs them.

package graph

import (
	"context"
	"fmt"
	"time"

	"meros/cache"
)

// Options configure a build.
type Options struct {
	Store     *cache.Store
	Runner    Runner
	Unpack    cache.Unpack // for inputs of the form Tree
	Scratch   string       // directory on the store's file system for work in progress
	Budget    Budget
	History   History     // durations of earlier runs; may be empty
	Observe   func(Event) // may be nil; called from several goroutines
	KeepGoing bool        // after a failure, start the nodes that do not depend on it

	Rerun func(*Node) bool // reports whether to run a node although the cache has it; may be nil
}

// Budget bounds the work that runs at one time.
type Budget struct {
	CPU       int   // tokens
	Memory    int64 // bytes; 0 means no bound
	Downloads int
}

// Result is the outcome of a build.
type Result struct {
	Nodes   int // in the plan
	Cached  int // of them, not run, because the cache had the answer
	Ran     int
	Failed  int
	Skipped int // not run, because something below failed or the build ended
	CutOff  int // of the cached: an input ran and its output was unchanged (early cut-off)

	Outputs   map[*Node]map[string]cache.Artifact
	Actions   map[*Node]cache.ActionID
	Durations map[string]time.Duration // of the nodes that ran, by name
	Elapsed   time.Duration
}

// Build makes the outputs of the targets exist. It asks for the targets first. It
// asks for a node below only if the cache has no entry, or no bytes, for a node
// above. The error is the first failure, a *[NodeError], or the context's.
func Build(ctx context.Context, p *Plan, targets []*Node, o Options) (*Result, error) {
	b := newBuild(ctx, p, o)
	start := time.Now()
	for _, t := range targets {
		b.demandBytes(b.vertices[t.id])
	}
	b.loop()
	r := b.result()
	r.Elapsed = time.Since(start)
	if err := ctx.Err(); err != nil {
		return r, fmt.Errorf("build: %w", context.Cause(ctx))
	}
	return r, b.firstError
}

// build is the state of one call of [Build]. Only the goroutine of its loop
// touches it.
type build struct {
	Options
	ctx      context.Context
	vertices []*vertex // by the position of the node in the plan
	events   chan func()
	underway int                // goroutines that will send an event
	inflight map[string]*vertex // vertices from locking to running, by key and delivery path

	cpuReady, downloadReady queue
	cpuFree, downloadFree   int
	memoryUsed              int64

	stopping   bool // start nothing more
	firstError error
}

func newBuild(ctx context.Context, p *Plan, o Options) *build {
	o.Budget.CPU = max(o.Budget.CPU, 1)
	o.Budget.Downloads = max(o.Budget.Downloads, 1)
	b := &build{
		Options: o, ctx: ctx,
		events:   make(chan func()),
		inflight: make(map[string]*vertex),
		cpuFree:  o.Budget.CPU, downloadFree: o.Budget.Downloads,
	}
	b.vertices = make([]*vertex, len(p.Nodes))
	for i, n := range p.Nodes {
		v := &vertex{node: n, inputs: make([]*vertex, len(n.Inputs))}
		for j, in := range n.Inputs {
			v.inputs[j] = b.vertices[in.Node.id]
		}
		b.vertices[i] = v
	}
	for i := len(b.vertices) - 1; i >= 0; i-- {
		v := b.vertices[i]
		v.path += o.History.Expect(v.node)
		for _, in := range v.inputs {
			in.path = max(in.path, v.path)
		}
	}
	return b
}

func (b *build) result() *Result {
	r := &Result{
		Nodes:     len(b.vertices),
		Outputs:   make(map[*Node]map[string]cache.Artifact),
		Actions:   make(map[*Node]cache.ActionID),
		Durations: make(map[string]time.Duration),
	}
	for _, v := range b.vertices {
		switch v.state {
		case ran:
			r.Ran++
			r.Durations[v.node.Name] = v.duration
		case failed:
			r.Failed++
		case skipped:
			r.Skipped++
		case cached, known, idle:
			r.Cached++
			for _, in := range v.inputs {
				if in.state == ran {
					r.CutOff++
					break
				}
			}
		}
		if v.outputs != nil {
			r.Outputs[v.node] = v.outputs
			r.Actions[v.node] = v.action
		}
	}
	return r
}
