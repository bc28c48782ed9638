// This file defines the states of a vertex and the only function that changes
// them. It does not know why a vertex changes: demand.go decides that.

package graph

import (
	"fmt"
	"time"

	"meros/cache"
)

// state is the progress of one vertex. A vertex only ever moves down this list.
type state uint8

const (
	// idle: nobody has asked for the vertex. This is the initial state, and the
	// last one of a vertex that the build does not need.
	idle state = iota

	// keying: a user has asked for the digests of the outputs. Every input has
	// been asked for its digests, and at least one of them is unknown.
	keying

	// known: the digests of the outputs are set, from Node.Fixed or from the
	// cache's entry. Nobody has asked for the bytes, so nobody has looked for
	// them. This may be the last state.
	known

	// waiting: the vertex must run: the cache has no entry for its key, or lacks the
	// bytes of an output, or Options.Rerun asks for it. Every input has been asked
	// for its bytes, and at least one does not have them. Or another vertex of this
	// build already builds the same key, see vertex.twins.
	waiting

	// locking: the bytes of all inputs are in the store, so the key is final. The
	// vertex is the only one of this build with this key, and another process may
	// hold the lock of the key.
	locking

	// ready: this process holds the lock of the key (vertex.unlock), and the cache
	// still had no usable entry after the lock was taken. The vertex is in one of
	// the queues and starts as soon as the budget allows.
	ready

	// running: the process of the vertex runs, and the vertex holds its part of
	// the budget.
	running

	// cached: the outputs are in the store, or delivered, and the vertex did not
	// run. An end.
	cached

	// ran: the process succeeded, and the outputs are in the store, or delivered.
	// The cache has an entry, except for a node with Fixed outputs. An end.
	ran

	// failed: the process, or something it needed, failed. An end.
	failed

	// skipped: something below failed, or the build stopped before the vertex
	// started. An end.
	skipped
)

func (s state) hasBytes() bool { return s == cached || s == ran }
func (s state) ended() bool    { return s >= cached }

var stateNames = [...]string{"idle", "keying", "known", "waiting", "locking", "ready", "running", "cached", "ran", "failed", "skipped"}

func (s state) String() string { return stateNames[s] }

// vertex is a node during one build.
type vertex struct {
	node   *Node
	inputs []*vertex // as node.Inputs
	state  state

	wantBytes bool
	pending   int       // inputs that the vertex still waits for, plus 1 while it asks them
	onDigest  []*vertex // users that wait for the digests of the outputs
	onBytes   []*vertex // users that wait for the bytes of the outputs
	twins     []*vertex // others with the same key, which wait for this one to end

	slot     string // the vertex's index in build.inflight, or ""
	action   cache.ActionID
	keyText  []byte
	outputs  map[string]cache.Artifact // nil until known
	unlock   func()
	reason   string // why the cache had no answer
	duration time.Duration
	path     time.Duration // expected time from its start to the end of the build
	cpu      int           // tokens it holds while running
}

// set is the only place where a state changes. It panics if the vertex has ended
// or would move up the list of states.
func (v *vertex) set(to state) {
	if to <= v.state || v.state.ended() {
		panic(fmt.Sprintf("graph: %s goes from %v to %v", v.node.Name, v.state, to))
	}
	v.state = to
}

func (v *vertex) takeOnBytes() []*vertex {
	users := v.onBytes
	v.onBytes = nil
	return users
}
