// Package record remembers builds: what ran, when and why, and what came of it.
// A record answers questions after the build, when the plan is gone. Losing one
// costs nothing but the answers. The package does not build, and prints nothing.
package record

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"meros/cache"
	"meros/graph"
	"meros/runner"
	"meros/runner/hint"
)

// Head is the summary of a build.
type Head struct {
	ID       string    `json:"id"` // when the build began, UTC, and its name
	Name     string    `json:"name"`
	Verb     string    `json:"verb"`
	Machines []string  `json:"machines,omitempty"`
	Began    time.Time `json:"began"`
	Seconds  float64   `json:"seconds"`
	Result   string    `json:"result"` // ok, failed or interrupted
	Error    string    `json:"error,omitempty"`
	Hint     string    `json:"hint,omitempty"` // the next steps after the error, one a line
	CPUs     int       `json:"cpus"`
	Nodes    int       `json:"nodes"`
	Cached   int       `json:"cached"`
	Ran      int       `json:"ran"`
	Failed   int       `json:"failed"`
	Skipped  int       `json:"skipped"`
	CutOff   int       `json:"spared"` // of the cached: an input ran and gave the same bytes
	Meros    string    `json:"meros"`
	Sum      string    `json:"sum"` // equal for two builds of the same actions
}

// Node is one node of a build.
type Node struct {
	Name    string                    `json:"name"`
	Stage   string                    `json:"stage"`
	Outcome string                    `json:"outcome"` // cached, ran, failed, interrupted or skipped
	Key     string                    `json:"key,omitempty"`
	Reason  string                    `json:"reason,omitempty"` // why it ran
	Error   string                    `json:"error,omitempty"`
	Start   float64                   `json:"start,omitempty"`   // seconds since the build began
	Seconds float64                   `json:"seconds,omitempty"` // that it took
	Inputs  []int                     `json:"inputs,omitempty"`  // indexes into the nodes of the build
	Outputs map[string]cache.Artifact `json:"outputs,omitempty"`
	Log     string                    `json:"log,omitempty"`      // digest of a failed node's log
	KeyText string                    `json:"key_text,omitempty"` // of a failed node; the cache has the others'
	URL     string                    `json:"url,omitempty"`      // of a download
	Target  bool                      `json:"target,omitempty"`
	Impure  bool                      `json:"impure,omitempty"`
	Network bool                      `json:"network,omitempty"` // impure, because it may have reached a network
	Files   []string                  `json:"files,omitempty"`   // of the constellation that it reads
}

// Build is the record of a build. The inputs of a node come before it.
type Build struct {
	Head
	Stages []Node `json:"stages"`
}

// Recorder notes when the nodes of a build start and end.
type Recorder struct {
	urls func(*graph.Node) []string

	mu    sync.Mutex
	began time.Time
	seen  map[*graph.Node]*Node
}

// NewRecorder begins a record. urls returns the addresses of a download.
func NewRecorder(urls func(*graph.Node) []string) *Recorder {
	return &Recorder{urls: urls, began: time.Now(), seen: make(map[*graph.Node]*Node)}
}

// Seconds returns a duration in seconds, rounded to milliseconds.
func Seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// Event notes an event. Several goroutines may call it.
func (r *Recorder) Event(e graph.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := time.Since(r.began)
	switch e.Kind {
	case graph.Started:
		r.seen[e.Node] = &Node{Outcome: "interrupted", Start: Seconds(at), Reason: strings.TrimPrefix(e.Reason, "cache miss: ")}
	case graph.Ran, graph.Failed:
		n := r.seen[e.Node]
		if n == nil {
			n = &Node{}
			r.seen[e.Node] = n
		}
		n.Outcome, n.Seconds = "ran", max(Seconds(at)-n.Start, 0)
		if ne := (*graph.NodeError)(nil); e.Kind == graph.Failed && errors.As(e.Err, &ne) {
			n.Outcome, n.Log, n.KeyText, n.Error = "failed", filepath.Base(ne.Log), string(ne.KeyText), ne.Error()
		}
	}
}

// About says what was built, and how.
type About struct {
	Name, Verb string
	Machines   []string
	CPUs       int    // tokens
	Meros      string // version
}

// Build returns the record of the build without its nodes. err is the build's.
func (r *Recorder) Build(about About, plan *graph.Plan, result *graph.Result, err error) *Build {
	b := &Build{Head: Head{
		Name: about.Name, Verb: about.Verb, Machines: about.Machines, Began: r.began.UTC().Truncate(time.Second), Seconds: Seconds(result.Elapsed), Result: "ok", CPUs: about.CPUs,
		Nodes: result.Nodes, Cached: result.Cached, Ran: result.Ran, Failed: result.Failed, Skipped: result.Skipped, CutOff: result.CutOff, Meros: about.Meros,
	}}
	switch {
	case result.Failed > 0:
		b.Result = "failed"
	case err != nil:
		b.Result = "interrupted"
	}
	if ne := (*graph.NodeError)(nil); errors.As(err, &ne) {
		b.Error, b.Hint = ne.Error(), hint.Of(ne) // without the errors of other nodes
	} else if err != nil {
		b.Error, b.Hint = err.Error(), hint.Of(err)
	}
	b.Sum = actionsSum(plan, result, b)
	return b
}

// actionsSum returns a digest that is equal for two builds of the same actions.
func actionsSum(plan *graph.Plan, result *graph.Result, b *Build) string {
	h := sha256.New()
	fmt.Fprintln(h, b.Verb, b.Machines, b.Result)
	for _, n := range plan.Nodes {
		if a := result.Actions[n]; !a.IsZero() {
			io.WriteString(h, a.Hex())
		} else {
			io.WriteString(h, n.Name)
		}
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// AddNodes adds the nodes of the plan to a record, with what the recorder noted.
func (r *Recorder) AddNodes(b *Build, plan *graph.Plan, targets []*graph.Node, result *graph.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	place := make(map[*graph.Node]int)
	for i, pn := range plan.Nodes {
		place[pn] = i
		n := Node{Outcome: "cached"}
		if seen := r.seen[pn]; seen != nil {
			n = *seen
		} else if _, known := result.Outputs[pn]; !known && b.Result != "ok" {
			n.Outcome = "skipped"
		}
		n.Name, n.Stage, n.Outputs, n.Impure, n.Target = pn.Name, pn.Stage, result.Outputs[pn], pn.Impure, slices.Contains(targets, pn)
		n.Network = pn.Impure && pn.Network != runner.NoNetwork
		if a := result.Actions[pn]; !a.IsZero() {
			n.Key = a.Hex()
		} else if n.KeyText != "" {
			n.Key = cache.NewActionID([]byte(n.KeyText)).Hex()
		}
		for _, in := range pn.Inputs {
			if p := place[in.Node]; !slices.Contains(n.Inputs, p) {
				n.Inputs = append(n.Inputs, p)
			}
		}
		for _, l := range pn.Locals {
			n.Files = append(n.Files, l.Name)
		}
		if urls := r.urls(pn); len(urls) > 0 {
			n.URL = urls[0]
		}
		b.Stages = append(b.Stages, n)
	}
}

// LogFile returns the file that holds the node's log.
func (n *Node) LogFile(store *cache.Store) (string, error) {
	d := digest.NewDigestFromEncoded(digest.SHA256, n.Log)
	if n.Log == "" {
		id, err := cache.ParseActionID(n.Key)
		if err != nil {
			return "", fmt.Errorf("%s did not run, so it has no log", n.Name)
		}
		entry, err := store.Lookup(id)
		if err != nil {
			return "", fmt.Errorf("the log of %s is no longer in the cache: %w", n.Name, err)
		}
		if entry.Log == nil {
			return "", fmt.Errorf("%s wrote nothing", n.Name)
		}
		d = entry.Log.Digest
	}
	if d.Validate() != nil {
		return "", errors.New("the record is damaged")
	}
	return store.Path(d), nil
}

// keyText returns the key text of the node.
func (n *Node) keyText(store *cache.Store) ([]byte, error) {
	if n.KeyText != "" {
		return []byte(n.KeyText), nil
	}
	id, err := cache.ParseActionID(n.Key)
	if err != nil {
		return nil, err
	}
	return store.KeyText(id)
}

// Size returns the bytes of the node's outputs.
func (n *Node) Size() int64 { return SizeOf(n.Outputs) }

// SizeOf returns the bytes of all outputs.
func SizeOf(outputs map[string]cache.Artifact) (size int64) {
	for _, a := range outputs {
		size += a.Size
	}
	return size
}

// OwnedBy splits the name of a node that belongs to one machine of the
// constellation: the machine's name, and the rest.
func OwnedBy(constellation, node string) (machine, rest string, ok bool) {
	name, ok := strings.CutPrefix(node, constellation+"/")
	if !ok {
		return "", "", false
	}
	machine, rest, _ = strings.Cut(name, " ")
	return machine, rest, true
}
