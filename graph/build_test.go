// This file tests builds with a fake runner and a real store.

package graph

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"meros/bench/lab"
	"meros/cache"
	"meros/runner/hint"
)

// fakeRunner derives the content of each output from the node's parameters and inputs.
// It records the order in which nodes ran.
type fakeRunner struct {
	mu      sync.Mutex
	ran     []*Node
	running int
	most    int // nodes that ran at one time
	before  func(ctx context.Context, j *Job) error
}

func (f *fakeRunner) RunJob(ctx context.Context, j *Job) error {
	f.mu.Lock()
	f.ran = append(f.ran, j.Node)
	f.running++
	f.most = max(f.most, f.running)
	f.mu.Unlock()
	defer func() { f.mu.Lock(); f.running--; f.mu.Unlock() }()
	if f.before != nil {
		if err := f.before(ctx, j); err != nil {
			return err
		}
	}
	h := digest.SHA256.Digester()
	fmt.Fprintln(h.Hash(), j.Node.Param("content"))
	if j.Node.Param("ignore-inputs") == "" {
		for _, in := range j.Inputs {
			b, err := os.ReadFile(in.Path)
			if err != nil {
				return fmt.Errorf("input of %s is missing: %w", j.Node.Name, err)
			}
			h.Hash().Write(b)
		}
	}
	for _, o := range j.Node.Outputs {
		if err := os.WriteFile(filepath.Join(j.Out, o), []byte(o+h.Digest().String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeRunner) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var s []string
	for _, n := range f.ran {
		s = append(s, n.Name)
	}
	return s
}

type world struct {
	t      *testing.T
	store  *cache.Store
	runner *fakeRunner
	opts   Options
	events []Event
	mu     sync.Mutex
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := lab.InMemory(t) // ten thousand nodes are many files
	store, err := cache.Open(dir, cache.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := store.NewScratch(filepath.Join(dir, "build"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { scratch.Close() })
	w := &world{t: t, store: store, runner: &fakeRunner{}}
	w.opts = Options{Store: store, Runner: w.runner, Scratch: scratch.Dir(), Budget: Budget{CPU: 4, Downloads: 2}, Observe: w.observe}
	return w
}

func (w *world) observe(e Event) { w.mu.Lock(); w.events = append(w.events, e); w.mu.Unlock() }

// build runs a build. It resets the runner and the events first.
func (w *world) build(ctx context.Context, p *Plan, targets ...*Node) (*Result, error) {
	w.runner.ran, w.runner.most, w.events = nil, 0, nil
	return Build(ctx, p, targets, w.opts)
}

func (w *world) mustBuild(p *Plan, targets ...*Node) *Result {
	w.t.Helper()
	r, err := w.build(context.Background(), p, targets...)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func node(p *Plan, name, content string, inputs ...*Node) *Node {
	n := &Node{Stage: "test", Revision: 1, Name: name, Params: []Param{{"content", content}}, Outputs: []string{"out"}}
	for _, in := range inputs {
		n.Inputs = append(n.Inputs, Input{Name: "in", Node: in, Output: "out"})
	}
	return p.Add(n)
}

func TestFailureLetsRunningNodesFinish(t *testing.T) {
	w := newWorld(t)
	p := new(Plan)
	bad, slow := node(p, "bad", "1"), node(p, "slow", "2")
	user, later := node(p, "user", "3", bad), node(p, "later", "4", slow)
	started, handled := make(chan struct{}), make(chan struct{})
	w.runner.before = func(_ context.Context, j *Job) error {
		switch j.Node {
		case bad:
			<-started
			return errors.New("exit status 3")
		case slow:
			close(started)
			<-handled
		}
		return nil
	}
	w.opts.Observe = func(e Event) {
		if w.observe(e); e.Kind == Failed && e.Node == bad {
			close(handled)
		}
	}
	r, err := w.build(context.Background(), p, user, later)
	if ne := (*NodeError)(nil); !errors.As(err, &ne) || ne.Node != bad || err.Error() != "build bad: exit status 3" {
		t.Errorf("got %v", err)
	}
	if r.Ran != 1 || r.Failed != 1 || r.Skipped != 2 {
		t.Errorf("%d ran, %d failed, %d skipped", r.Ran, r.Failed, r.Skipped)
	}
}

func TestEarlyCutOff(t *testing.T) {
	w := newWorld(t)
	build := func(source string) *Result {
		p := new(Plan)
		src := node(p, "source", source)
		gen := p.Add(&Node{Stage: "test", Name: "generate", Params: []Param{{"content", "same"}, {"ignore-inputs", "y"}}, Outputs: []string{"out"}, Inputs: []Input{{Name: "in", Node: src, Output: "out"}}})
		return w.mustBuild(p, node(p, "pack", "p", gen))
	}
	build("a")
	r := build("b")
	if got := strings.Join(w.runner.names(), " "); got != "source generate" {
		t.Errorf("ran %q", got)
	}
	if r.CutOff != 1 {
		t.Errorf("%d nodes are counted as cut off", r.CutOff)
	}
	build("a")
	if got := w.runner.names(); len(got) != 0 {
		t.Errorf("returning to the first state ran %q", got)
	}
}

func TestCachedResultOpensNothingBelow(t *testing.T) {
	w := newWorld(t)
	p := new(Plan)
	a := node(p, "a", "1")
	b := node(p, "b", "2", a)
	c := node(p, "c", "3", b)
	r := w.mustBuild(p, c)
	for _, n := range []*Node{a, b} {
		if err := os.Remove(w.store.Path(r.Outputs[n]["out"].Digest)); err != nil {
			t.Fatal(err)
		}
	}
	if r := w.mustBuild(p, c); r.Ran != 0 {
		t.Errorf("ran %q", w.runner.names())
	}
	// A new last node needs the bytes of its input, and that needs those of its own.
	d := node(p, "d", "4", b)
	w.mustBuild(p, d)
	if got := strings.Join(w.runner.names(), " "); got != "a b d" {
		t.Errorf("ran %q", got)
	}
}

func TestFixedOutputsAreFetchedOnlyIfNeeded(t *testing.T) {
	w := newWorld(t)
	p := new(Plan)
	content := "outX"
	fetch := p.Add(&Node{Stage: "fetch", Name: "fetch", Outputs: []string{"out"}, Needs: Needs{Download: true},
		Fixed: map[string]cache.Artifact{"out": {Digest: digest.FromString(content), Size: int64(len(content))}}})
	user := node(p, "user", "u", fetch)
	w.runner.before = func(_ context.Context, j *Job) error { return nil }
	_, err := w.build(context.Background(), p, user)
	if err == nil || !strings.Contains(err.Error(), "are pinned") {
		t.Errorf("a fetch whose bytes differ from the pinned ones: %v", err)
	}
	w.opts.Runner = runnerFunc(func(ctx context.Context, j *Job) error {
		if j.Node == fetch {
			return os.WriteFile(filepath.Join(j.Out, "out"), []byte(content), 0o644)
		}
		return w.runner.RunJob(ctx, j)
	})
	w.mustBuild(p, user)
	os.Remove(w.store.Path(fetch.Fixed["out"].Digest))
	if r := w.mustBuild(p, user); r.Ran != 0 {
		t.Error("a package was fetched for a cached result")
	}
}

type runnerFunc func(context.Context, *Job) error

func (f runnerFunc) RunJob(ctx context.Context, j *Job) error { return f(ctx, j) }

func TestEqualNodesAreOne(t *testing.T) {
	w := newWorld(t)
	p := new(Plan)
	a, b := node(p, "left", "same"), node(p, "right", "same")
	if a != b {
		t.Error("the plan has two nodes for the same work")
	}
	// These differ in the plan, but the contents of their inputs are equal.
	x := p.Add(&Node{Stage: "x", Name: "x", Params: []Param{{"content", "k"}}, Outputs: []string{"out"}})
	y := p.Add(&Node{Stage: "y", Name: "y", Params: []Param{{"content", "k"}}, Outputs: []string{"out"}})
	u, v := node(p, "u", "u", x), node(p, "v", "u", y)
	r := w.mustBuild(p, u, v)
	if r.Ran != 3 {
		t.Errorf("ran %q", w.runner.names())
	}
	if r.Outputs[u]["out"] != r.Outputs[v]["out"] {
		t.Error("they have different outputs")
	}
}

func TestOneBuildPerKeyAcrossProcesses(t *testing.T) {
	w := newWorld(t)
	p := new(Plan)
	target := node(p, "target", "1", node(p, "base", "0"))
	w.runner.before = func(context.Context, *Job) error { time.Sleep(30 * time.Millisecond); return nil }
	var wg sync.WaitGroup
	for range 4 {
		// Each build has its own Store on the same directory, as a process would.
		store, err := cache.Open(w.store.Dir(), cache.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		o := w.opts
		o.Store = store
		wg.Go(func() {
			if _, err := Build(context.Background(), p, []*Node{target}, o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := w.runner.names(); len(got) != 2 {
		t.Errorf("four builds at once ran %q", got)
	}
}

func TestLongestPathStartsFirst(t *testing.T) {
	w := newWorld(t)
	w.opts.Budget.CPU = 1
	w.opts.History = History{"long": 9 * time.Second, "short": time.Millisecond, "end": time.Second}
	p := new(Plan)
	short, long := node(p, "short", "1"), node(p, "long", "2")
	w.mustBuild(p, node(p, "end", "3", short, long))
	if got := strings.Join(w.runner.names(), " "); got != "long short end" {
		t.Errorf("ran %q", got)
	}
}

func TestBudget(t *testing.T) {
	w := newWorld(t)
	p := new(Plan)
	var targets []*Node
	for i := range 40 {
		n := node(p, fmt.Sprint(i), fmt.Sprint(i))
		n.Needs.CPU = 2
		targets = append(targets, n)
	}
	w.runner.before = func(context.Context, *Job) error { time.Sleep(time.Millisecond); return nil }
	w.mustBuild(p, targets...)
	if w.runner.most > 2 {
		t.Errorf("%d nodes of two tokens each ran at once, with four tokens", w.runner.most)
	}
}

func TestDamageIsAMiss(t *testing.T) {
	w := newWorld(t)
	p := new(Plan)
	a := node(p, "a", "1")
	b := node(p, "b", "2", a)
	r := w.mustBuild(p, b)
	file := w.store.Path(r.Outputs[b]["out"].Digest)
	os.Chmod(file, 0o644)
	content, _ := os.ReadFile(file)
	content[0] ^= 1
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	again := w.mustBuild(p, b)
	if again.Ran != 1 || again.Outputs[b]["out"] != r.Outputs[b]["out"] {
		t.Errorf("ran %q", w.runner.names())
	}
	reason := ""
	for _, e := range w.events {
		if e.Kind == Started {
			reason = e.Reason
		}
	}
	if !strings.Contains(reason, "damaged") {
		t.Errorf("the reason given is %q", reason)
	}
}

func TestDeliver(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "disks", "x.qcow2")
	p := new(Plan)
	n := p.Add(&Node{Stage: "disk", Name: "disk", Params: []Param{{"content", "1"}}, Outputs: []string{"out"}, Deliver: path})
	w.mustBuild(p, n)
	if r := w.mustBuild(p, n); r.Ran != 0 {
		t.Error("the file was delivered again")
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"edited":  func() error { return os.WriteFile(path, []byte("by hand"), 0o644) },
		"removed": func() error { return os.Remove(path) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		w.mustBuild(p, n)
		if got, _ := os.ReadFile(path); string(got) != string(first) {
			t.Errorf("%s: the file contains %q", name, got)
		}
	}
}

func TestInterruptSkipsAndReuses(t *testing.T) {
	w := newWorld(t)
	p := new(Plan)
	first := node(p, "first", "1")
	second := node(p, "second", "2", first)
	ctx, cancel := context.WithCancelCause(context.Background())
	w.runner.before = func(ctx context.Context, j *Job) error {
		if j.Node == second {
			cancel(errors.New("interrupted"))
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	_, err := w.build(ctx, p, second)
	if err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("got %v", err)
	}
	w.runner.before = nil
	w.mustBuild(p, second)
	if got := strings.Join(w.runner.names(), " "); got != "second" {
		t.Errorf("after an interrupt ran %q", got)
	}
}

func TestFailedNodeCarriesItsLog(t *testing.T) {
	w := newWorld(t)
	p := new(Plan)
	n := node(p, "n", "1")
	w.opts.Runner = runnerFunc(func(_ context.Context, j *Job) error {
		for i := range 100 {
			fmt.Fprintf(j.Log, "line %d\n", i)
		}
		return errors.New("exit status 1")
	})
	_, err := w.build(context.Background(), p, n)
	ne := (*NodeError)(nil)
	if !errors.As(err, &ne) || len(ne.Tail) != logTail || ne.Tail[logTail-1] != "line 99" {
		t.Fatalf("got %+v", ne)
	}
	if full, err := os.ReadFile(ne.Log); err != nil || strings.Count(string(full), "\n") != 100 {
		t.Errorf("the full log: %v", err)
	}
}

// The output of a node whose local file changed during the run is not cached.
func TestLocalChangedWhileRead(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "motd")
	plan := func() (*Plan, *Node) {
		t.Helper()
		l, err := ReadLocal("motd", file, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		p := new(Plan)
		return p, p.Add(&Node{Stage: "test", Name: "n", Locals: []Local{l}, Outputs: []string{"out"}})
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	p, n := plan()
	w.runner.before = func(context.Context, *Job) error { write("two"); return nil }
	if _, err := w.build(t.Context(), p, n); err == nil || !strings.Contains(err.Error(), "motd was changed while it was read") || hint.Of(err) != "build again" {
		t.Errorf("%v", err)
	}
	w.runner.before = nil
	write("one")
	if p, n = plan(); w.mustBuild(p, n).Ran != 1 {
		t.Error("the output of a changing file is in the cache")
	}
}

func TestKeyText(t *testing.T) {
	p := new(Plan)
	n := p.Add(&Node{
		Stage: "overlay", Revision: 2, Name: "lab/web overlay", Outputs: []string{"layer"},
		Params: []Param{{"epoch", "1700000000"}, {"odd", "two\nlines \"x\""}, {"empty", ""}}, Hints: []Param{{"jobs", "8"}},
		Inputs: []Input{{Name: "lower", Node: node(p, "base", "1"), Output: "out"}},
		Locals: []Local{{Name: "includes.chroot", Path: "/home/user/x", Digest: "sha256:00", Entries: []string{"etc/motd mode 100644 content 12"}}},
	})
	want := `meros key v1
stage overlay
revision 2
param epoch 1700000000
param odd "two\nlines \"x\""
param empty ""
local includes.chroot sha256:00
local includes.chroot etc/motd mode 100644 content 12
input lower sha256:ab
output layer
`
	if got := string(KeyText(n, []digest.Digest{"sha256:ab"})); got != want {
		t.Errorf("got\n%s", got)
	}
}

// FuzzQuote checks that quoted values are distinct and stay on one line.
func FuzzQuote(f *testing.F) {
	f.Add("a", "\"a\"")
	f.Add("", "\"\"")
	f.Add("a\nb", "a b")
	f.Fuzz(func(t *testing.T, a, b string) {
		if (quote(a) == quote(b)) != (a == b) {
			t.Errorf("%q and %q are both %s", a, b, quote(a))
		}
		if strings.ContainsAny(quote(a), "\n\r") {
			t.Errorf("%q spans lines", a)
		}
	})
}
