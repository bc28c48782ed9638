// This file defines the events and failures that a build reports.

package graph

import (
	"fmt"
	"time"

	"meros/cache"
)

// Kind is the kind of an event.
type Kind uint8

const (
	Started  Kind = iota // the node's process starts
	Progress             // Done of Total bytes or steps
	Output               // Line is a line of the process's output
	Waiting              // another process, PID, builds the same key
	Cached               // the node has its outputs and did not run
	Ran                  // the node ran and has its outputs
	Failed               // Err is the reason
)

var finishKind = map[state]Kind{cached: Cached, ran: Ran}

// Event is one thing that happened during a build.
type Event struct {
	Kind     Kind
	Node     *Node
	Action   cache.ActionID
	Outputs  map[string]cache.Artifact
	Duration time.Duration
	Reason   string // of Started: why the cache had no answer
	Line     string
	Done     int64
	Total    int64 // 0 if unknown
	PID      int   // of Waiting; 0 if unknown
	Err      error
}

func (b *build) observe(e Event) {
	if b.Observe != nil {
		b.Observe(e)
	}
}

// NodeError is the failure of one node.
type NodeError struct {
	Node *Node
	Err  error
	Log  string   // path of the full log, or ""
	Tail []string // last lines of the log

	KeyText []byte // of the action; the cache only stores those of successful actions
}

func (e *NodeError) Error() string { return fmt.Sprintf("build %s: %v", e.Node.Name, e.Err) }
func (e *NodeError) Unwrap() error { return e.Err }

// History has the durations of nodes in earlier builds, by the names of the nodes.
type History map[string]time.Duration

// Expect returns the duration that n probably needs: that of its last run, or a second.
func (h History) Expect(n *Node) time.Duration {
	if d, ok := h[n.Name]; ok {
		return d
	}
	return time.Second
}
