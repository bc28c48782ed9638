package graph

import (
	"fmt"
	"time"

	"meros/cache"
)

// Kind is what happened to a node.
type Kind uint8

const (
	Started  Kind = iota // its process begins
	Progress             // Done of Total bytes or steps
	Output               // Line is a line of its output
	Waiting              // the process PID builds the same key
	Cached               // its outputs are here and it did not run
	Ran                  // it ran and its outputs are here
	Failed               // Err says why
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
	PID      int
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
	Log  string   // path of the full log, if it wrote one
	Tail []string // its last lines

	KeyText []byte // of the action, which the cache does not keep
}

func (e *NodeError) Error() string { return fmt.Sprintf("build %s: %v", e.Node.Name, e.Err) }
func (e *NodeError) Unwrap() error { return e.Err }

// History is how long nodes took in earlier builds, by their name.
type History map[string]time.Duration

// Expect is how long n may take: as it did last time, or a second.
func (h History) Expect(n *Node) time.Duration {
	if d, ok := h[n.Name]; ok {
		return d
	}
	return time.Second
}
