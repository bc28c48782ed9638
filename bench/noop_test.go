// This file measures builds that have nothing to do.

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"meros/bench/lab"
	"meros/cache"
	"meros/constellations"
	"meros/graph"
	"meros/runner/arch"
	"meros/stages"
)

// stubRunner is a Runner that only writes small outputs. A build that runs no
// stage costs the same whatever the outputs contain.
type stubRunner struct{}

func (stubRunner) RunJob(_ context.Context, j *graph.Job) error {
	for _, o := range j.Node.Outputs {
		if err := os.WriteFile(filepath.Join(j.Out, o), []byte(j.Node.Name+" "+o), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkNoop builds a constellation that is built already. The limit is the
// start of the program (`meros --help`).
func BenchmarkNoop(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := project(b, n)
			p.Write(b, "constellations/lab/common/includes.chroot/etc/motd", "hello\n")
			p.Write(b, "constellations/lab/common/hooks/0100-x.chroot", "#!/bin/sh\n")
			for i := range n { // so that each machine has layers of its own
				p.Write(b, fmt.Sprintf("constellations/lab/m%d/includes.chroot/etc/name", i), fmt.Sprint(i))
			}
			nodes := fill(b, p)
			s := make(samples)
			defer s.report(b)
			for b.Loop() {
				start := lab.Time(b, lab.Program(b), "--help")
				o := best(b, p, "build", "lab")
				if ran := o.Ran(); len(ran) > 0 {
					b.Fatalf("stages ran: %q", ran)
				}
				s.add("nodes", float64(nodes))
				s.add("ms", o.Wall.Seconds()*1000)
				s.add("x/help", o.Wall.Seconds()/start.Seconds())
				s.add("MB/rss", float64(o.MaxRSS)/1e6)
				s.add("ms/plan", best(b, p, "plan", "lab").Wall.Seconds()*1000) // target: 60 for 10 machines, 1200 for 1000
				p.Write(b, "constellations/lab/common/includes.chroot/etc/motd", "changed\n")
				s.add("ms/why", best(b, p, "why", "lab").Wall.Seconds()*1000) // the change affects all machines
				p.Write(b, "constellations/lab/common/includes.chroot/etc/motd", "hello\n")
			}
		})
	}
}

// best returns the fastest of five runs. The others measure the noise of the
// host.
func best(b *testing.B, p *lab.Project, args ...string) *lab.Outcome {
	var o *lab.Outcome
	for range 5 {
		if next := p.Must(b, args...); o == nil || next.Wall < o.Wall {
			o = next
		}
	}
	return o
}

// fill puts a result for every node of the plan into the cache and returns the
// number of nodes.
func fill(b *testing.B, p *lab.Project) int {
	b.Helper()
	m, err := constellations.Find(p.Root, "lab")
	if err != nil {
		b.Fatal(err)
	}
	lock, err := constellations.ReadLock(filepath.Join(m.Dir, "meros.lock"))
	if err != nil {
		b.Fatal(err)
	}
	var all []*constellations.Machine
	for i := range m.Machines {
		all = append(all, &m.Machines[i])
	}
	plan, stats := new(graph.Plan), graph.ReadStatCache(filepath.Join(b.TempDir(), "stats"), time.Now())
	planned, err := stages.Plan(plan, m, all, lock, stages.Options{
		Root: p.Root, Self: lab.Program(b), Host: arch.Host(), Tools: stages.ToolIdentities(all, false, stats), StatCache: stats,
		URLs: func(*constellations.SectionLock, constellations.Package) []string { return nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	store, err := cache.Open(p.Path("data/cache"), cache.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	scratch, err := store.NewScratch(p.Path("data/cache/build"))
	if err != nil {
		b.Fatal(err)
	}
	defer scratch.Close()
	var targets []*graph.Node
	for _, pm := range planned {
		targets = append(targets, pm.Targets()...)
	}
	unpack := func(_ context.Context, _, dir string) error { return os.Mkdir(dir, 0o755) }
	_, err = graph.Build(b.Context(), plan, targets, graph.Options{
		Store: store, Runner: stubRunner{}, Unpack: unpack, Scratch: scratch.Dir(), Budget: graph.Budget{CPU: 4, Downloads: 8},
	})
	if err != nil {
		b.Fatal(err)
	}
	return len(plan.Nodes)
}
