package main

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

	"meros/cache"
	"meros/graph"
	"meros/runner"
)

// recordSuffix ends the name of a build's record: two JSON values, its head and
// its stages, compressed.
const recordSuffix = ".json.zst"

// keptRecords is how many builds of one thing are remembered.
const keptRecords = 50

// recordHead is what a build came to.
type recordHead struct {
	ID       string    `json:"id"` // when it began, UTC, and of what
	Name     string    `json:"name"`
	Verb     string    `json:"verb"`
	Machines []string  `json:"machines,omitempty"`
	Began    time.Time `json:"began"`
	Seconds  float64   `json:"seconds"`
	Result   string    `json:"result"` // ok, failed or interrupted
	Error    string    `json:"error,omitempty"`
	CPUs     int       `json:"cpus"`
	Nodes    int       `json:"nodes"`
	Cached   int       `json:"cached"`
	Ran      int       `json:"ran"`
	Failed   int       `json:"failed"`
	Skipped  int       `json:"skipped"`
	CutOff   int       `json:"spared"` // of the cached: something below ran and gave the same bytes
	Meros    string    `json:"meros"`
	Sum      string    `json:"sum"` // equal for two builds of the same actions
}

// recordStage is a node of a build.
type recordStage struct {
	Name    string                    `json:"name"`
	Stage   string                    `json:"stage"`
	Outcome string                    `json:"outcome"` // cached, ran, failed, interrupted or skipped
	Key     string                    `json:"key,omitempty"`
	Reason  string                    `json:"reason,omitempty"` // why it ran
	Error   string                    `json:"error,omitempty"`
	Start   float64                   `json:"start,omitempty"`   // seconds since the build began
	Seconds float64                   `json:"seconds,omitempty"` // until it ended
	Inputs  []int                     `json:"inputs,omitempty"`  // places in the list
	Outputs map[string]cache.Artifact `json:"outputs,omitempty"`
	Log     string                    `json:"log,omitempty"`      // digest of what a failed one wrote
	KeyText string                    `json:"key_text,omitempty"` // of a failed one; others have it in the cache
	URL     string                    `json:"url,omitempty"`      // of a download
	Target  bool                      `json:"target,omitempty"`
	Impure  bool                      `json:"impure,omitempty"`
	Network bool                      `json:"network,omitempty"` // of an impure one: it may have reached one
	Files   []string                  `json:"files,omitempty"`   // of the constellation that it reads
}

type buildRecord struct {
	recordHead
	Stages []recordStage `json:"stages"`
}

// recorder notes when the nodes of a build begin and end.
type recorder struct {
	mu    sync.Mutex
	began time.Time
	seen  map[*graph.Node]*recordStage
}

func newRecorder() *recorder {
	return &recorder{began: time.Now(), seen: make(map[*graph.Node]*recordStage)}
}

func (r *recorder) event(e graph.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := time.Since(r.began)
	switch e.Kind {
	case graph.Started:
		r.seen[e.Node] = &recordStage{Outcome: "interrupted", Start: milliseconds(at), Reason: strings.TrimPrefix(e.Reason, "cache miss: ")}
	case graph.Ran, graph.Failed:
		s := r.seen[e.Node]
		if s == nil {
			s = &recordStage{}
			r.seen[e.Node] = s
		}
		s.Outcome, s.Seconds = "ran", max(milliseconds(at)-s.Start, 0)
		if ne := (*graph.NodeError)(nil); e.Kind == graph.Failed && errors.As(e.Err, &ne) {
			s.Outcome, s.Log, s.KeyText = "failed", filepath.Base(ne.Log), string(ne.KeyText)
			s.Error = ne.Error()
		}
	}
}

// record is what came of a build, without its stages.
func (r *recorder) record(plan *graph.Plan, result *graph.Result, x execution, err error) *buildRecord {
	b := &buildRecord{recordHead: recordHead{
		Name: x.name, Verb: x.verb, Machines: x.machines, Began: r.began.UTC().Truncate(time.Second), Seconds: milliseconds(result.Elapsed), Result: "ok", CPUs: x.jobs,
		Nodes: result.Nodes, Cached: result.Cached, Ran: result.Ran, Failed: result.Failed, Skipped: result.Skipped, CutOff: result.CutOff, Meros: version(),
	}}
	switch {
	case result.Failed > 0:
		b.Result = "failed"
	case err != nil:
		b.Result = "interrupted"
	}
	if ne := (*graph.NodeError)(nil); errors.As(err, &ne) {
		b.Error = ne.Error()
	} else if err != nil {
		b.Error = err.Error()
	}
	b.Sum = actionsSum(plan, result, b)
	return b
}

// actionsSum is equal for two builds of the same actions.
func actionsSum(plan *graph.Plan, result *graph.Result, b *buildRecord) string {
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

// stages adds what the recorder saw of each node.
func (r *recorder) stages(plan *graph.Plan, targets []*graph.Node, result *graph.Result, b *buildRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	place, target := make(map[*graph.Node]int), make(map[*graph.Node]bool)
	for _, t := range targets {
		target[t] = true
	}
	for i, n := range plan.Nodes {
		place[n] = i
		s := recordStage{Outcome: "cached"}
		if seen := r.seen[n]; seen != nil {
			s = *seen
		} else if _, known := result.Outputs[n]; !known && b.Result != "ok" {
			s.Outcome = "skipped"
		}
		s.Name, s.Stage, s.Outputs, s.Impure, s.Target = n.Name, n.Stage, result.Outputs[n], n.Impure, target[n]
		s.Network = n.Impure && n.Network != runner.NoNetwork
		if a := result.Actions[n]; !a.IsZero() {
			s.Key = a.Hex()
		} else if s.KeyText != "" {
			s.Key = cache.NewActionID([]byte(s.KeyText)).Hex()
		}
		for _, in := range n.Inputs {
			if p := place[in.Node]; !slices.Contains(s.Inputs, p) {
				s.Inputs = append(s.Inputs, p)
			}
		}
		for _, l := range n.Locals {
			s.Files = append(s.Files, l.Name)
		}
		if urls := urlsOf(n); len(urls) > 0 {
			s.URL = urls[0]
		}
		b.Stages = append(b.Stages, s)
	}
}
