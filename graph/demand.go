// This file moves each vertex of a build from state to state. It asks for digests and
// bytes, asks the cache, and finds the vertices that must run. It does not start them.

package graph

import (
	"errors"

	"meros/cache"
)

// demandDigest asks for the digests of v's outputs, not for their bytes.
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
	v.pending = 1 // until all inputs have been asked
	for _, in := range v.inputs {
		b.demandDigest(in)
		if in.outputs == nil {
			in.onDigest = append(in.onDigest, v)
			v.pending++
		}
	}
	b.inputKnown(v)
}

// inputKnown is called once for each input of a keying v whose digests have become
// known. After the last one it asks the cache.
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
	// One of the users that fireDigest called may have asked for the bytes already.
	if v.wantBytes && v.state == known {
		b.ensureBytes(v)
	}
}

// errAsked is the reason for a run that Options.Rerun asked for.
var errAsked = errors.New("asked for")

func (b *build) rerun(v *vertex) bool { return b.Rerun != nil && b.Rerun(v.node) }

// demandBytes asks for the bytes of v's outputs.
func (b *build) demandBytes(v *vertex) {
	v.wantBytes = true
	b.demandDigest(v)
	if v.state == known {
		b.ensureBytes(v)
	}
}

// ensureBytes ends a known v if its outputs are in the store, or delivered.
// Otherwise v must run.
func (b *build) ensureBytes(v *vertex) {
	if err := b.present(v); err != nil {
		v.reason = err.Error()
		b.mustRun(v)
		return
	}
	b.finish(v, cached)
}

// mustRun asks for the bytes of v's inputs, in order to run v when it has them.
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

// inputHere is called once for each input of a waiting v whose bytes have become
// available. An input may have run and given other bytes than before, or the same
// bytes as in an earlier build (early cut-off). So inputHere computes the key
// again, and asks the cache again, before v runs.
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

// reuse ends v without a run if the cache has its outputs. It reports whether it
// did.
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

// locked is called when this process holds the lock of v's key. It asks the cache
// again: another process may have built the key in the meantime.
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

// finish ends v successfully and wakes the vertices that waited for it.
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
	users := v.onDigest
	v.onDigest = nil
	for _, u := range users {
		b.inputKnown(u)
	}
}

// fail ends v unsuccessfully. Running vertices go on: their outputs are useful to
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

// skip ends v without running it.
func (b *build) skip(v *vertex) {
	v.set(skipped)
	b.abandon(v)
}

// abandon skips all vertices that waited for v.
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

// letGo unlocks v's key for other processes. It returns the other vertices of this
// build that have the same key.
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
