// This file tests previews against real builds.

package graph

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/cache"
)

// A build does what its preview said, whatever the cache has lost.
func TestPreviewBuild(t *testing.T) {
	cutOffs := 0
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(5, seed))
		w := newWorld(t)
		for round := range 4 {
			p, targets := collidingPlan(rng, 40)
			all := PreviewBuild(p, targets, w.store)
			w.runner.ran = nil
			r := w.mustBuild(p, targets...)
			ran, keys := make(map[*Node]bool), make(map[cache.ActionID]bool)
			for _, n := range w.runner.ran {
				ran[n], keys[r.Actions[n]] = true, true
			}
			for _, f := range all {
				switch {
				case f.Outcome == WouldReuse && ran[f.Node]:
					t.Fatalf("seed %d, round %d: %s ran, but the preview said it would be reused", seed, round, f.Node.Name)
				case f.Outcome == WouldRun && !keys[f.Action] && !strings.Contains(f.Reason, "not in the store"): // bytes may come from another node
					t.Fatalf("seed %d, round %d: %s did not run (%s)", seed, round, f.Node.Name, f.Reason)
				case f.Outcome == MayRun && f.After == nil:
					t.Fatalf("seed %d, round %d: %s may run, but after no other node", seed, round, f.Node.Name)
				case f.Outcome == MayRun && !ran[f.Node]:
					cutOffs++
				}
				delete(ran, f.Node)
			}
			if len(ran) > 0 {
				t.Fatalf("seed %d, round %d: %d nodes ran that the preview did not name", seed, round, len(ran))
			}
			for _, f := range PreviewBuild(p, targets, w.store) {
				if f.Outcome != WouldReuse {
					t.Fatalf("seed %d, round %d: %s would run again (%s)", seed, round, f.Node.Name, f.Reason)
				}
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
	if cutOffs == 0 {
		t.Error("no node was cut off: the test does not cover early cut-off")
	}
}

func TestEstimate(t *testing.T) {
	p := new(Plan)
	var leaves []*Node
	h := make(History)
	for i := range 4 {
		n := node(p, fmt.Sprint("leaf", i), fmt.Sprint(i))
		h[n.Name] = 3 * time.Second
		leaves = append(leaves, n)
	}
	top := node(p, "top", "x", leaves...)
	h[top.Name] = time.Second
	w := newWorld(t)
	all := PreviewBuild(p, []*Node{top}, w.store)
	for cpus, want := range map[int]time.Duration{1: 13 * time.Second, 2: 6500 * time.Millisecond, 100: 4 * time.Second} {
		if got := Estimate(all, h, cpus); got != want {
			t.Errorf("on %d CPUs %v, want %v", cpus, got, want)
		}
	}
	w.mustBuild(p, top)
	if got := Estimate(PreviewBuild(p, []*Node{top}, w.store), h, 1); got != 0 {
		t.Errorf("a build without work is estimated to take %v", got)
	}
}
