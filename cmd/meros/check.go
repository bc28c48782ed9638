// This file builds everything a second time in fresh directories and compares, for build
// --check.

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"meros/cache"
	"meros/graph"
	"meros/runner/hint"
	"meros/runner/layer"
	"meros/stages/step"
)

// checker builds a plan a second time, starting with the same downloads.
type checker struct {
	*workspace
	again *cache.Store // it starts with the downloads and the outputs of impure stages
	first *graph.Result
}

// seed adds to the second store everything that came from a network: the downloads, and
// the outputs of impure stages. It returns how many impure stages there are.
func (c *checker) seed(plan *graph.Plan) (impure int, err error) {
	for _, n := range plan.Nodes {
		id := c.first.Actions[n]
		outputs := c.first.Outputs[n]
		switch {
		case n.Fixed != nil:
		case n.Impure && !id.IsZero():
			impure++
			text, err := c.store.KeyText(id)
			if err != nil {
				return 0, err
			}
			entry, err := c.store.Lookup(id)
			if err != nil {
				return 0, err
			}
			if err := c.again.Record(id, text, *entry); err != nil {
				return 0, err
			}
		default:
			continue
		}
		for _, a := range outputs {
			if err := c.share(a); err != nil {
				return 0, err
			}
		}
	}
	return impure, nil
}

// share links an artifact into the second store, if the first one has it.
func (c *checker) share(a cache.Artifact) error {
	to := c.again.Path(a.Digest)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	err := os.Link(c.store.Path(a.Digest), to)
	if errors.Is(err, os.ErrExist) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// compare finds the first node that had the same inputs and another output.
func (c *checker) compare(plan *graph.Plan, second *graph.Result) error {
	for _, n := range plan.Nodes {
		if n.Fixed != nil || c.first.Actions[n] != second.Actions[n] {
			continue // its inputs differ
		}
		for _, o := range n.Outputs {
			a, b := c.first.Outputs[n][o], second.Outputs[n][o]
			if a.Digest == b.Digest || a.Digest == "" || b.Digest == "" {
				continue
			}
			where, err := layer.DifferAt(c.store.Path(a.Digest), c.again.Path(b.Digest))
			if err != nil {
				where = err.Error()
			}
			return hint.Add(fmt.Errorf("%s is not reproducible: its output %q was %s and is %s: %s",
				n.Name, o, a.Digest.Encoded()[:12], b.Digest.Encoded()[:12], where),
				"data/cache/actions/%s is the key of both", filepath.Join(c.first.Actions[n].Hex()[:2], c.first.Actions[n].Hex()+".key"))
		}
	}
	return nil
}

// check builds everything again in fresh directories, and compares. The error names the
// stage whose output differs although its inputs are the same.
func (w *workspace) check(e *env, plan *graph.Plan, targets []*graph.Node, first *graph.Result, jobs int) error {
	dir := filepath.Join(w.scratch.Dir(), "check")
	again, err := cache.Open(dir, cache.Options{NoSync: true})
	if err != nil {
		return err
	}
	c := &checker{w, again, first}
	impure, err := c.seed(plan)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	var checked []*graph.Node
	for _, t := range targets {
		if t.Deliver == "" && t.Stage != "boot" { // copies, and results that contain times
			checked = append(checked, t)
		}
	}
	if jobs == 0 {
		jobs = runtime.NumCPU()
	}
	o, err := w.graphOptions(jobs, step.Watch)
	if err != nil {
		return err
	}
	o.Store, o.Observe = again, e.ui.event
	e.ui.note("building everything again, to compare")
	e.ui.begin(false, nil, w.history, jobs)
	defer e.ui.end()
	second, err := graph.Build(e.ctx, plan, checked, o)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if err := c.compare(plan, second); err != nil {
		return err
	}
	text := fmt.Sprintf("checked: %s gave the same bytes again", counted(second.Ran, "stage"))
	if impure > 0 {
		text += fmt.Sprintf("; %d impure stages were left out", impure)
	}
	e.ui.note("%s", text)
	return nil
}
