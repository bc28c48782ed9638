// This file builds a plan: it shows the progress, records the build and cleans the
// cache.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"meros/graph"
	"meros/graph/record"
	"meros/runner"
	"meros/runner/hint"
	"meros/runner/host"
	"meros/runner/layer"
	"meros/stages/pin"
	"meros/stages/step"
)

// execution says how to build a plan.
type execution struct {
	name      string   // of the targets, for people
	verb      string   // in the history; "" means no record
	machines  []string // for the history
	jobs      int      // CPU tokens; 0 means the number of CPUs
	keepGoing bool
	quiet     bool                   // print nothing unless a stage runs
	rerun     func(*graph.Node) bool // reports whether to run a node again; may be nil
}

func (x execution) about() record.About {
	return record.About{Name: x.name, Verb: x.verb, Machines: x.machines, CPUs: x.jobs, Meros: version()}
}

// execute builds the targets of a plan, and reports the result.
func (w *workspace) execute(e *env, plan *graph.Plan, targets []*graph.Node, x execution) (*graph.Result, error) {
	if x.jobs == 0 {
		x.jobs = runtime.NumCPU()
	}
	var previews []graph.Preview
	if e.ui.mode == "tty" {
		previews = graph.PreviewBuild(plan, targets, w.store)
	}
	e.ui.begin(x.quiet, previews, w.history, x.jobs)
	defer e.ui.end()
	rec := record.NewRecorder(urlsOf)
	observe := func(ev graph.Event) {
		rec.Event(ev)
		e.ui.event(ev)
	}
	o, err := w.graphOptions(x.jobs, step.Watch)
	if err != nil {
		return nil, err
	}
	o.Observe, o.KeepGoing, o.Rerun = observe, x.keepGoing, x.rerun
	r, err := graph.Build(e.ctx, plan, targets, o)
	w.remember(r, x.name)
	defer w.limitCache(e, r)
	if x.verb != "" {
		if err := e.records().Save(w.scratch.Dir(), rec.Build(x.about(), plan, r, err), func(b *record.Build) { rec.AddNodes(b, plan, targets, r) }); err != nil {
			e.ui.note("no record of this build was written, so `meros cache gc` may remove its images: %v", err)
		}
	}
	if changed := (*graph.ChangedError)(nil); errors.As(err, &changed) {
		os.Remove(w.statsFile()) // a wrong cached fingerprint may be the cause
	}
	if err != nil {
		return nil, err
	}
	if !x.quiet || r.Ran > 0 {
		e.ui.note("built %s: %d stages, %d cached, %d run, %.1f s", x.name, r.Nodes, r.Cached, r.Ran, r.Elapsed.Seconds())
	}
	return r, nil
}

// graphOptions returns the options of a build on this host. watch receives the output
// of stages.
func (w *workspace) graphOptions(jobs int, watch func(*graph.Job) runner.Stdio) (graph.Options, error) {
	self, err := os.Executable()
	sandboxed := graph.Sandboxed{Self: self, Run: sameProgram(runner.Run), Watch: watch, Env: new(servers).env}
	return graph.Options{
		Store: w.store, Runner: &layerFetcher{sandboxed, sync.OnceValues(pin.NewRegistries)}, Unpack: layer.Unpack, Scratch: w.scratch.Dir(),
		Budget: graph.Budget{CPU: jobs, Memory: host.MemoryAvailable(), Downloads: 8}, History: w.history,
	}, err
}

// sameProgram fails a stage if this program's file was replaced while it ran: the new
// program may have other stages.
func sameProgram(run func(context.Context, runner.Spec, runner.Stdio) error) func(context.Context, runner.Spec, runner.Stdio) error {
	return func(ctx context.Context, s runner.Spec, stdio runner.Stdio) error {
		if err := run(ctx, s, stdio); err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		now, err := os.Stat(self)
		if err != nil {
			return hint.Add(fmt.Errorf("the program was replaced while it ran: %w", err), "build again")
		}
		if then, err := os.Stat("/proc/self/exe"); err != nil || !os.SameFile(now, then) {
			return hint.Add(fmt.Errorf("%s was replaced while it ran", self), "build again")
		}
		return nil
	}
}
