// This file is the scheduler: it starts ready vertices within the budget, waits
// for events and acts on them. It does not decide which vertices must run.

package graph

import "container/heap"

// loop runs the build. It starts the ready vertices that fit the budget, waits
// for one event, and acts on it, until no work is in progress. All state of the
// build belongs to this goroutine.
func (b *build) loop() {
	done := b.ctx.Done()
	for {
		b.startReady()
		if b.underway == 0 {
			b.skipRest()
			return
		}
		select {
		case act := <-b.events:
			b.underway--
			act()
		case <-done:
			b.stopping, done = true, nil
		}
	}
}

// background runs work in a goroutine. The loop then calls the function that
// work returned.
func (b *build) background(work func() func()) {
	b.underway++
	go func() { b.events <- work() }()
}

// queue is a heap of ready vertices. The vertex with the longest expected path to
// the end of the build comes first.
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

// startReady starts the vertices that fit the budget. A vertex that does not fit
// holds back those behind it, so that small ones cannot starve a large one. A
// vertex that needs more than the whole budget starts when no other runs.
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
	b.observe(Event{Kind: Started, Node: v.node, Action: v.action, Reason: v.reason})
	b.background(func() func() {
		e, err := b.run(v)
		return func() { b.ran(v, e, err) }
	})
}

// release returns v's part of the budget.
func (b *build) release(v *vertex) {
	if v.node.Needs.Download {
		b.downloadFree++
		return
	}
	b.cpuFree += v.cpu
	b.memoryUsed -= v.node.Needs.Memory
}

// skipRest skips the vertices that were asked for and will not run.
func (b *build) skipRest() {
	for _, v := range b.vertices {
		if v.state == ready || v.state == waiting || v.state == keying {
			b.skip(v)
		}
	}
}
