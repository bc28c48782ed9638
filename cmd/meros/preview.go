// This file previews a build: which stages would run and why, for plan, why, graph and
// cache export. It runs nothing.

package main

import (
	"fmt"
	"maps"
	"strings"
	"sync"

	"meros/cache"
	"meros/constellations"
	"meros/graph"
	"meros/graph/record"
)

// preview holds the nodes of a build, and which of them would run now.
type preview struct {
	manifest *constellations.Manifest
	all      []graph.Preview
	targets  map[*graph.Node]bool
	store    *cache.Store
	history  graph.History
	last     record.Last
	packages func() map[string]graph.Label // of the newest builds, by the digests of their files
	named    []string                      // files and directories of the host that the manifest names
}

// nodes returns the nodes that the build needs.
func (f *preview) nodes() (all []*graph.Node) {
	for _, s := range f.all {
		all = append(all, s.Node)
	}
	return all
}

// reason returns in one line why a stage would run.
func (f *preview) reason(s graph.Preview) string {
	if s.Node.Fixed != nil {
		return "not downloaded yet"
	}
	if ds := f.differences(s); len(ds) > 0 {
		more := ""
		if len(ds) > 1 {
			more = fmt.Sprintf(" (and %d more)", len(ds)-1)
		}
		return ds[0].String() + more
	}
	return strings.TrimPrefix(s.Reason, "cache miss: ")
}

// lastOf returns the last action of a node.
func (f *preview) lastOf(n *graph.Node) (record.LastAction, bool) {
	a, ok := f.last[f.manifest.Name+" "+n.Name]
	return a, ok
}

// differences returns the differences between a stage's key text and its last one.
func (f *preview) differences(s graph.Preview) []graph.Difference {
	was, ok := f.lastOf(s.Node)
	if !ok || s.KeyText == nil || was.Action == s.Action.Hex() {
		return nil
	}
	return f.differencesOf(s.Node, was.Action, s.KeyText)
}

// newPreview previews a plan.
func newPreview(e *env, w *workspace, m *constellations.Manifest, p *planned) *preview {
	packages := func() map[string]graph.Label { return e.records().Packages(m.Name) }
	f := &preview{
		manifest: m, all: graph.PreviewBuild(p.plan, p.targets, w.store), targets: make(map[*graph.Node]bool),
		store: w.store, history: w.history, last: record.ReadLast(w.lastFile()), packages: sync.OnceValue(packages),
	}
	for _, pm := range p.machines {
		f.named = append(f.named, pm.Named...)
	}
	for _, t := range p.targets {
		f.targets[t] = true
	}
	return f
}

// differencesOf returns the differences between the key text of a node's action
// and an earlier one, or nil if either is unknown.
func (p *preview) differencesOf(n *graph.Node, before string, text []byte) []graph.Difference {
	id, err := cache.ParseActionID(before)
	if err != nil {
		return nil
	}
	was, err := p.store.KeyText(id)
	if err != nil {
		return nil
	}
	labels := maps.Clone(p.packages())
	record.LabelInputs(n, text, labels)
	return graph.Differences(was, text, labels)
}
