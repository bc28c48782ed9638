package graph

import (
	"container/heap"
	"context"
	"fmt"
	"time"

	"meros/cache"
)

// state is where a vertex is on its way. A vertex moves only downwards in
// this list, save from known to waiting.
type state uint8

const (
	idle    state = iota // nobody has asked for it
	keying               // asked for; waits for its inputs' digests
	known                // its outputs' digests are known; their bytes were not asked for
	waiting              // must run; waits for its inputs' bytes
	locking              // waits until no other process builds its key
	ready                // may start as soon as the budget allows
	running              // its process runs
	cached               // end: its outputs are here, it did not run
	ran                  // end: its outputs are here, it ran
	failed               // end
	skipped              // end: something below failed, or the build was ended
)

func (s state) hasBytes() bool { return s == cached || s == ran }
func (s state) ended() bool    { return s >= cached }

var stateNames = [...]string{"idle", "keying", "known", "waiting", "locking", "ready", "running", "cached", "ran", "failed", "skipped"}

func (s state) String() string { return stateNames[s] }

// vertex is a node being built.
type vertex struct {
	node   *Node
	inputs []*vertex // as node.Inputs
	state  state

	wantBytes bool
	pending   int       // inputs still waited for, and 1 while they are asked
	onDigest  []*vertex // users that wait for outputs to be known
	onBytes   []*vertex // users that wait for outputs to be here
	twins     []*vertex // others with the same key, that wait for this one to end

	slot     string // its place among those in flight, or ""
	action   cache.ActionID
	keyText  []byte
	outputs  map[string]cache.Artifact // nil until known
	unlock   func()
	reason   string // why the cache had no answer
	duration time.Duration
	path     time.Duration // expected from its start to the end of the build
	cpu      int           // tokens it holds while running
}

// set is the only place where a state changes.
func (v *vertex) set(to state) {
	if to <= v.state || v.state.ended() {
		panic(fmt.Sprintf("graph: %s goes from %v to %v", v.node.Name, v.state, to))
	}
	v.state = to
}

func (v *vertex) takeOnBytes() []*vertex {
	us := v.onBytes
	v.onBytes = nil
	return us
}

// build is the state of one call of [Build]. Only its loop touches it.
type build struct {
	Options
	ctx      context.Context
	vertices []*vertex
	events   chan func()
	underway int // goroutines that will send an event
	inflight map[string]*vertex

	cpuReady, downloadReady queue
	cpuFree, downloadFree   int
	memoryUsed              int64
	active                  int // vertices running

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

// queue holds ready vertices, the one with the longest path to the end of the
// build first.
type queue []*vertex

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].path != q[j].path {
		return q[i].path > q[j].path
	}
	return q[i].node.id < q[j].node.id
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*vertex)) }
func (q *queue) Pop() any {
	old := *q
	v := old[len(old)-1]
	*q = old[:len(old)-1]
	return v
}

func (b *build) enqueue(v *vertex) {
	if v.node.Needs.Download {
		heap.Push(&b.downloadReady, v)
	} else {
		heap.Push(&b.cpuReady, v)
	}
}

// startReady starts what fits the budget. A vertex that does not fit holds
// back the ones behind it, so that a large one is not starved by small ones;
// one that needs more than there is of something starts when it is alone.
func (b *build) startReady() {
	if b.stopping {
		return
	}
	for len(b.downloadReady) > 0 && b.downloadFree > 0 {
		b.downloadFree--
		b.start(heap.Pop(&b.downloadReady).(*vertex))
	}
	for len(b.cpuReady) > 0 {
		v := b.cpuReady[0]
		v.cpu = min(max(v.node.Needs.CPU, 1), b.Budget.CPU)
		tooMuch := b.Budget.Memory > 0 && b.memoryUsed > 0 && b.memoryUsed+v.node.Needs.Memory > b.Budget.Memory
		if v.cpu > b.cpuFree || tooMuch {
			return
		}
		b.cpuFree -= v.cpu
		b.memoryUsed += v.node.Needs.Memory
		b.start(heap.Pop(&b.cpuReady).(*vertex))
	}
}

func (b *build) start(v *vertex) {
	v.set(running)
	b.active++
	b.observe(Event{Kind: Started, Node: v.node, Action: v.action, Reason: v.reason})
	b.background(func() func() {
		e, err := b.run(v)
		return func() { b.ran(v, e, err) }
	})
}

// release gives back what v held while it ran.
func (b *build) release(v *vertex) {
	b.active--
	if v.node.Needs.Download {
		b.downloadFree++
		return
	}
	b.cpuFree += v.cpu
	b.memoryUsed -= v.node.Needs.Memory
}

// skipRest ends what was asked for and will not run any more.
func (b *build) skipRest() {
	for _, v := range b.vertices {
		if v.state == ready || v.state == waiting || v.state == keying {
			b.skip(v)
		}
	}
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
