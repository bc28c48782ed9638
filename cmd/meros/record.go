package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

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
	Spared   int       `json:"spared"` // of the cached: something below ran and gave the same bytes
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
			s.Error, _ = nodeFailure(ne)
		}
	}
}

// record is what came of a build, without its stages.
func (r *recorder) record(plan *graph.Plan, result *graph.Result, x execution, err error) *buildRecord {
	b := &buildRecord{recordHead: recordHead{
		Name: x.name, Verb: x.verb, Machines: x.machines, Began: r.began.UTC().Truncate(time.Second), Seconds: milliseconds(result.Elapsed), Result: "ok", CPUs: x.jobs,
		Nodes: result.Nodes, Cached: result.Cached, Ran: result.Ran, Failed: result.Failed, Skipped: result.Skipped, Spared: result.Spared, Meros: version(),
	}}
	switch {
	case result.Failed > 0:
		b.Result = "failed"
	case err != nil:
		b.Result = "interrupted"
	}
	if ne := (*graph.NodeError)(nil); errors.As(err, &ne) {
		b.Error, _ = nodeFailure(ne)
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
		s.URL = firstURL(n)
		b.Stages = append(b.Stages, s)
	}
}

// firstURL is where a download comes from.
func firstURL(n *graph.Node) string {
	var urls []string
	for _, h := range n.Hints {
		if h.Name == "urls" && json.Unmarshal([]byte(h.Value), &urls) == nil && len(urls) > 0 {
			return urls[0]
		}
	}
	return ""
}

// records are the builds that data remembers.
type records struct{ dir string }

func recordsOf(root string) records { return records{filepath.Join(root, "data", "cache", "builds")} }

// keep writes a record down, unless the newest of its name says the same: of
// that, only the time is kept. fill adds the stages. It is a memory that costs
// nothing to lose.
func (rs records) keep(b *buildRecord, fill func(*buildRecord)) error {
	if err := os.MkdirAll(rs.dir, 0o755); err != nil {
		return err
	}
	ids, err := rs.ids(b.Name)
	if err != nil {
		return err
	}
	if len(ids) > 0 && b.Ran == 0 && b.Result == "ok" {
		if was, err := rs.head(ids[len(ids)-1]); err == nil && was.Sum == b.Sum {
			now := time.Now()
			return os.Chtimes(rs.file(was.ID), now, now)
		}
	}
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == os.PathSeparator || r < ' ' {
			return '_'
		}
		return r
	}, b.Name)
	b.ID = b.Began.Format("20060102-150405") + "-" + name
	for i := 2; slices.Contains(ids, b.ID); i++ {
		b.ID = fmt.Sprintf("%s.%d-%s", b.Began.Format("20060102-150405"), i, name)
	}
	fill(b)
	if err := rs.write(b); err != nil {
		return err
	}
	return rs.prune(b.Name)
}

// prune forgets the oldest builds, but none that tells what a current image is.
func (rs records) prune(name string) error {
	ids, err := rs.ids(name)
	if err != nil || len(ids) <= keptRecords {
		return err
	}
	newest, err := rs.newestHeads(name, nil)
	if err != nil {
		return err
	}
	for _, id := range ids[:len(ids)-keptRecords] {
		if !slices.ContainsFunc(newest, func(h *recordHead) bool { return h.ID == id }) {
			os.Remove(rs.file(id))
		}
	}
	return nil
}

func (rs records) write(b *buildRecord) error {
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	enc := json.NewEncoder(z)
	if err := errors.Join(enc.Encode(b.recordHead), enc.Encode(b.Stages), z.Close()); err != nil {
		return err
	}
	f, err := os.CreateTemp(rs.dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(buf.Bytes())
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), rs.file(b.ID))
}

func (rs records) file(id string) string { return filepath.Join(rs.dir, id+recordSuffix) }

// ids are the builds of that name, or all, the oldest first.
func (rs records) ids(name string) ([]string, error) {
	entries, err := os.ReadDir(rs.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	var ids []string
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if ok && (name == "" || nameOf(id) == name) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// nameOf is what an id says was built.
func nameOf(id string) string {
	if f := strings.SplitN(id, "-", 3); len(f) == 3 {
		return f[2]
	}
	return ""
}

// find is the build that a user calls so: by its id or the beginning of one, or
// by what was built, then the newest of it; NAME~1 is the one before that, and
// "" the newest of all.
func (rs records) find(what string) (*buildRecord, error) {
	ids, err := rs.ids("")
	if err != nil {
		return nil, err
	}
	name, back := what, 0
	if i := strings.LastIndexByte(what, '~'); i >= 0 {
		if _, err := fmt.Sscanf(what[i:], "~%d", &back); err != nil || back < 0 {
			return nil, usageError{fmt.Errorf("%s: what is behind ~ is no number", what)}
		}
		name = what[:i]
	}
	var same, begin []string
	for _, id := range ids {
		switch {
		case id == what:
			return rs.read(id)
		case name == "" || nameOf(id) == name:
			same = append(same, id)
		case strings.HasPrefix(id, what):
			begin = append(begin, id)
		}
	}
	switch {
	case len(same) > back:
		return rs.read(same[len(same)-1-back])
	case len(same) > 0:
		return nil, usageError{fmt.Errorf("%s: only %d builds are remembered (meros history)", what, len(same))}
	case len(begin) == 1:
		return rs.read(begin[0])
	case len(begin) > 1:
		return nil, usageError{fmt.Errorf("%s: %d builds begin so (meros history)", what, len(begin))}
	case what == "":
		return nil, usageError{errors.New("no build is remembered yet (meros build makes one)")}
	}
	return nil, usageError{fmt.Errorf("%s: no such build is remembered (meros history)", what)}
}

func (rs records) decode(id string, values ...any) error {
	f, err := os.Open(rs.file(id))
	if err != nil {
		return fmt.Errorf("read the record of %s: %w", id, err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		return err
	}
	defer z.Close()
	dec := json.NewDecoder(io.LimitReader(z, 1<<30))
	for _, v := range values {
		if err := dec.Decode(v); err != nil {
			return fmt.Errorf("read the record of %s: %w", id, err)
		}
	}
	return nil
}

func (rs records) head(id string) (*recordHead, error) {
	h := new(recordHead)
	return h, rs.decode(id, h)
}

func (rs records) read(id string) (*buildRecord, error) {
	b := new(buildRecord)
	if err := rs.decode(id, &b.recordHead, &b.Stages); err != nil {
		return nil, err
	}
	for _, s := range b.Stages {
		for _, in := range s.Inputs {
			if in < 0 || in >= len(b.Stages) {
				return nil, fmt.Errorf("read the record of %s: it is damaged", id)
			}
		}
	}
	return b, nil
}

// before is the build of the same name before b, or nil.
func (rs records) before(b *buildRecord) *buildRecord {
	ids, err := rs.ids(b.Name)
	if err != nil {
		return nil
	}
	i := slices.Index(ids, b.ID)
	if i <= 0 {
		return nil
	}
	was, err := rs.read(ids[i-1])
	if err != nil {
		return nil
	}
	return was
}
