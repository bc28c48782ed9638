package graph

import (
	"context"
	"errors"
	"fmt"
	"time"

	"meros/cache"
)

// Options is how a plan is built.
type Options struct {
	Store     *cache.Store
	Runner    Runner
	Unpack    cache.Unpack // for inputs of the form Tree
	Scratch   string       // directory on the store's file system for work in progress
	Budget    Budget
	History   History     // durations of earlier runs; may be empty
	Observe   func(Event) // may be nil; called from several goroutines
	KeepGoing bool        // after a failure start what does not depend on it

	Rerun func(*Node) bool // what runs although the cache has it; may be nil
}

// Budget bounds what runs at one time.
type Budget struct {
	CPU       int   // tokens
	Memory    int64 // bytes; 0 is no bound
	Downloads int
}

// Result is what a build came to.
type Result struct {
	Nodes   int // in the plan
	Cached  int // of them, not run, because the cache had the answer
	Ran     int
	Failed  int
	Skipped int // not run, because something below failed or the build ended
	CutOff  int // of the cached: something below ran and gave the same bytes

	Outputs   map[*Node]map[string]cache.Artifact
	Actions   map[*Node]cache.ActionID
	Durations map[string]time.Duration // by node name, of what ran
	Elapsed   time.Duration
}

// Build makes the outputs of the targets exist. It asks for them first, and
// for anything else only as far as the cache cannot tell or give what is
// above it. The error is the first failure, a *[NodeError], or the context's.
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

// loop is the scheduler: it starts what is ready and fits the budget, waits
// for one thing to happen, and acts on it, until nothing is under way. All
// state belongs to this goroutine.
func (b *build) loop() {
	done := b.ctx.Done()
	for {
		b.startReady()
		if b.underway == 0 {
			b.skipRest()
			return
		}
		select {
		case f := <-b.events:
			b.underway--
			f()
		case <-done:
			b.stopping, done = true, nil
		}
	}
}

// background runs work in a goroutine and then, in the loop, what it returns.
func (b *build) background(work func() func()) {
	b.underway++
	go func() { b.events <- work() }()
}

// demandDigest asks what v's outputs are, not for their bytes.
func (b *build) demandDigest(v *vertex) {
	if v.state != idle {
		return
	}
	if v.node.Fixed != nil {
		v.outputs = v.node.Fixed
		v.set(known)
		return
	}
	v.set(keying)
	v.pending = 1 // held until all inputs were asked
	for _, in := range v.inputs {
		b.demandDigest(in)
		if in.outputs == nil {
			in.onDigest = append(in.onDigest, v)
			v.pending++
		}
	}
	b.inputKnown(v)
}

// inputKnown is called for each input of a keying v whose digest came to be
// known; after the last one the cache can be asked.
func (b *build) inputKnown(v *vertex) {
	if v.pending--; v.pending > 0 || v.state != keying {
		return
	}
	v.action, v.keyText = v.key()
	e, err := b.Store.Lookup(v.action)
	if err == nil && b.rerun(v) {
		err = errAsked
	}
	if err != nil {
		v.reason = err.Error()
		b.mustRun(v)
		return
	}
	v.outputs = e.Outputs
	v.set(known)
	b.fireDigest(v)
	// One of those who heard of it may have asked for the bytes already.
	if v.wantBytes && v.state == known {
		b.ensureBytes(v)
	}
}

// errAsked is why something runs that need not.
var errAsked = errors.New("asked for")

func (b *build) rerun(v *vertex) bool { return b.Rerun != nil && b.Rerun(v.node) }

// demandBytes asks for v's outputs themselves.
func (b *build) demandBytes(v *vertex) {
	v.wantBytes = true
	b.demandDigest(v)
	if v.state == known {
		b.ensureBytes(v)
	}
}

// ensureBytes runs a v with known outputs only if they are not here.
func (b *build) ensureBytes(v *vertex) {
	if err := b.present(v); err != nil {
		v.reason = err.Error()
		b.mustRun(v)
		return
	}
	b.finish(v, cached)
}

// mustRun asks for the bytes of v's inputs, to run v when they are here.
func (b *build) mustRun(v *vertex) {
	v.set(waiting)
	v.pending = 1
	for _, in := range v.inputs {
		b.demandBytes(in)
		if !in.state.hasBytes() {
			in.onBytes = append(in.onBytes, v)
			v.pending++
		}
	}
	b.inputHere(v)
}

// inputHere is called for each input of a waiting v whose bytes came to be
// here. An input may have run again and given other bytes, or the same ones
// that an earlier build had (early cut-off): so the key is made anew.
func (b *build) inputHere(v *vertex) {
	if v.pending--; v.pending > 0 || v.state != waiting {
		return
	}
	if b.stopping {
		b.skip(v)
		return
	}
	v.action, v.keyText = v.key()
	if b.reuse(v) {
		return
	}
	slot := v.action.Hex() + v.node.Deliver
	if twin := b.inflight[slot]; twin != nil {
		twin.twins = append(twin.twins, v)
		return
	}
	b.inflight[slot], v.slot = v, slot
	v.set(locking)
	if unlock, err := b.Store.TryLock(v.action.Hex()); unlock != nil || err != nil {
		b.locked(v, unlock, err)
		return
	}
	b.background(func() func() {
		unlock, err := b.Store.Lock(b.ctx, v.action.Hex(), func(pid int) {
			b.observe(Event{Kind: Waiting, Node: v.node, PID: pid})
		})
		return func() { b.locked(v, unlock, err) }
	})
}

// reuse finishes v from the cache if that can be done now.
func (b *build) reuse(v *vertex) bool {
	if b.rerun(v) {
		return false
	}
	if v.node.Fixed == nil {
		e, err := b.Store.Lookup(v.action)
		if err != nil {
			return false
		}
		v.outputs = e.Outputs
	}
	if b.present(v) != nil {
		return false
	}
	b.finish(v, cached)
	return true
}

// locked is called when v's key is ours to build; another process may have
// built it while we waited.
func (b *build) locked(v *vertex, unlock func(), err error) {
	switch {
	case err != nil:
		b.fail(v, err)
		return
	case b.stopping:
		unlock()
		b.skip(v)
		return
	}
	v.unlock = unlock
	if !b.reuse(v) {
		v.set(ready)
		b.enqueue(v)
	}
}

// ran is called when v's process has ended.
func (b *build) ran(v *vertex, e *cache.Entry, err error) {
	b.release(v)
	if err != nil {
		b.fail(v, err)
		return
	}
	v.duration = e.Duration
	v.outputs = e.Outputs
	b.finish(v, ran)
}

// finish ends v well, and so the waiting of all who waited for it.
func (b *build) finish(v *vertex, end state) {
	v.set(end)
	b.observe(Event{Kind: finishKind[end], Node: v.node, Action: v.action, Outputs: v.outputs, Duration: v.duration, Reason: v.reason})
	twins := b.letGo(v)
	b.fireDigest(v)
	for _, u := range v.takeOnBytes() {
		b.inputHere(u)
	}
	for _, t := range twins {
		t.outputs = v.outputs
		b.finish(t, cached)
	}
}

func (b *build) fireDigest(v *vertex) {
	us := v.onDigest
	v.onDigest = nil
	for _, u := range us {
		b.inputKnown(u)
	}
}

// fail ends v badly. Nothing that runs is stopped: what it makes is useful to
// the next build.
func (b *build) fail(v *vertex, err error) {
	if b.ctx.Err() == nil {
		ne := &NodeError{Node: v.node, Err: err, KeyText: v.keyText}
		if le := (*loggedError)(nil); errors.As(err, &le) {
			ne.Log, ne.Tail = le.log, le.tail
		}
		if b.firstError == nil {
			b.firstError = ne
		}
		v.set(failed)
		b.observe(Event{Kind: Failed, Node: v.node, Action: v.action, Err: ne})
	} else {
		v.set(skipped)
	}
	if !b.KeepGoing {
		b.stopping = true
	}
	b.abandon(v)
}

// skip ends v without having run it.
func (b *build) skip(v *vertex) {
	v.set(skipped)
	b.abandon(v)
}

// abandon skips all who waited for v.
func (b *build) abandon(v *vertex) {
	users := append(b.letGo(v), v.onDigest...)
	users = append(users, v.takeOnBytes()...)
	v.onDigest = nil
	for _, u := range users {
		if !u.state.ended() {
			b.skip(u)
		}
	}
}

// letGo frees v's key for other processes and returns the vertices of this
// build that turned out to have the same one.
func (b *build) letGo(v *vertex) (twins []*vertex) {
	if v.slot != "" {
		delete(b.inflight, v.slot)
		v.slot = ""
	}
	if v.unlock != nil {
		v.unlock()
		v.unlock = nil
	}
	twins, v.twins = v.twins, nil
	return twins
}
