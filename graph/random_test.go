// This file tests builds of random plans.

package graph

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"meros/cache"
)

// randomPlan returns a DAG of n nodes. The targets are the nodes without users.
func randomPlan(rng *rand.Rand, n int) (p *Plan, targets []*Node) {
	p = new(Plan)
	used := make(map[*Node]bool)
	for i := range n {
		var inputs []*Node
		for range min(rng.IntN(4), len(p.Nodes)) {
			// Most inputs are near, so that there are long chains, too.
			back := min(1+int(rng.ExpFloat64()*20), len(p.Nodes))
			in := p.Nodes[len(p.Nodes)-back]
			inputs = append(inputs, in)
			used[in] = true
		}
		m := node(p, fmt.Sprint("n", i), fmt.Sprint(i), inputs...)
		m.Needs = Needs{CPU: rng.IntN(6), Download: rng.IntN(5) == 0}
	}
	for _, m := range p.Nodes {
		if !used[m] {
			targets = append(targets, m)
		}
	}
	return p, targets
}

func TestRandomDAGs(t *testing.T) {
	for _, size := range []int{1, 10, 100, 1000, 10_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(size)))
			w := newWorld(t)
			p, targets := randomPlan(rng, size)
			r := w.mustBuild(p, targets...)
			if r.Ran != size || r.Cached != 0 {
				t.Fatalf("of %d nodes %d ran and %d were cached", size, r.Ran, r.Cached)
			}
			at := make(map[*Node]int)
			for i, n := range w.runner.ran {
				if _, twice := at[n]; twice {
					t.Fatalf("%s ran twice", n.Name)
				}
				at[n] = i
			}
			for _, n := range p.Nodes {
				for _, in := range n.Inputs {
					if at[in.Node] > at[n] {
						t.Fatalf("%s ran before its input %s", n.Name, in.Node.Name)
					}
				}
			}
			r = w.mustBuild(p, targets...)
			if r.Ran != 0 || r.Cached != size {
				t.Fatalf("again: %d ran and %d were cached", r.Ran, r.Cached)
			}
		})
	}
}

// collidingPlan returns a DAG in which many nodes give the same bytes. So there are early
// cut-offs, and nodes with equal keys. Any node may be a target.
func collidingPlan(rng *rand.Rand, n int) (p *Plan, targets []*Node) {
	p = new(Plan)
	for i := range n {
		var inputs []*Node
		for range min(rng.IntN(3), len(p.Nodes)) {
			inputs = append(inputs, p.Nodes[len(p.Nodes)-min(1+rng.IntN(8), len(p.Nodes))])
		}
		m := &Node{Stage: "test", Name: fmt.Sprint("n", i), Params: []Param{{"content", fmt.Sprint(rng.IntN(4))}}, Outputs: []string{"out"}}
		if rng.IntN(3) == 0 {
			m.Params = append(m.Params, Param{"ignore-inputs", "y"})
		}
		for _, in := range inputs {
			m.Inputs = append(m.Inputs, Input{Name: "in", Node: in, Output: "out"})
		}
		p.Add(m)
	}
	for range 1 + rng.IntN(6) {
		targets = append(targets, p.Nodes[rng.IntN(len(p.Nodes))])
	}
	return p, targets
}

// expected returns the correct content of a node's output, computed without a cache.
func expected(n *Node, known map[*Node]string) string {
	if s, ok := known[n]; ok {
		return s
	}
	h := digest.SHA256.Digester()
	fmt.Fprintln(h.Hash(), n.Param("content"))
	if n.Param("ignore-inputs") == "" {
		for _, in := range n.Inputs {
			fmt.Fprint(h.Hash(), expected(in.Node, known))
		}
	}
	known[n] = "out" + h.Digest().String()
	return known[n]
}

// Whatever the cache has lost, and whichever nodes are the targets, the outputs are
// correct and no key runs twice.
func TestRandomRebuilds(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(3, seed))
		w := newWorld(t)
		for round := range 4 {
			p, targets := collidingPlan(rng, 40)
			r := w.mustBuild(p, targets...)
			known := make(map[*Node]string)
			for _, n := range targets {
				a := r.Outputs[n]["out"]
				b, err := os.ReadFile(w.store.Path(a.Digest))
				if err != nil || string(b) != expected(n, known) {
					t.Fatalf("seed %d, round %d: %s is %q, want %q; %v", seed, round, n.Name, b, known[n], err)
				}
			}
			keys := make(map[cache.ActionID]bool)
			for _, n := range w.runner.ran {
				if keys[r.Actions[n]] {
					t.Fatalf("seed %d, round %d: one key ran twice", seed, round)
				}
				keys[r.Actions[n]] = true
			}
			for _, pattern := range []string{"actions/*/*", "cas/*/*"} {
				files, err := filepath.Glob(filepath.Join(w.store.Dir(), pattern))
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range files {
					if rng.IntN(3) == 0 {
						os.Remove(f)
					}
				}
			}
		}
	}
}

func TestRandomFailuresAndCancels(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(2, seed))
		w := newWorld(t)
		p, targets := randomPlan(rng, 300)
		ctx, cancel := context.WithCancel(context.Background())
		w.opts.KeepGoing = seed%2 == 0
		count := 0
		w.runner.before = func(ctx context.Context, j *Job) error {
			w.runner.mu.Lock()
			defer w.runner.mu.Unlock()
			if count++; count == 40 && seed%3 == 0 {
				cancel()
			}
			if count%25 == 0 {
				return errors.New("boom")
			}
			return ctx.Err()
		}
		r, err := w.build(ctx, p, targets...)
		if err == nil {
			t.Fatal("no error")
		}
		if r.Ran+r.Failed+r.Skipped+r.Cached != len(p.Nodes) {
			t.Fatalf("seed %d: %d ran, %d failed, %d skipped, %d cached of %d", seed, r.Ran, r.Failed, r.Skipped, r.Cached, len(p.Nodes))
		}
		// The next build does not run the successful nodes again.
		before := make(map[string]bool)
		for n := range r.Durations {
			before[n] = true
		}
		w.runner.before = nil
		w.mustBuild(p, targets...)
		for _, n := range w.runner.names() {
			if before[n] {
				t.Fatalf("seed %d: %s ran again after a failed build", seed, n)
			}
		}
		cancel()
	}
}
