// This file previews a build: which stages would run and why, for plan, why, graph and
// cache export. It runs nothing.

package main

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

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

// summary returns the preview for people and programs.
func (f *preview) summary() *planSummary {
	p := &planSummary{Constellation: f.manifest.Name, Seconds: record.Seconds(graph.Estimate(f.all, f.history, runtime.NumCPU()))}
	for _, s := range f.all {
		one := planStage{Name: s.Node.Name, Stage: s.Node.Stage, Outcome: outcomes[s.Outcome]}
		switch s.Outcome {
		case graph.WouldReuse:
			p.Reused++
		case graph.WouldRun:
			p.Run++
			one.Reason, one.Seconds = f.reason(s), record.Seconds(f.history.Expect(s.Node))
		case graph.MayRun:
			p.Maybe++
			one.After, one.Seconds = s.After.Name, record.Seconds(f.history.Expect(s.Node))
		}
		p.Stages = append(p.Stages, one)
	}
	return p
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

// has reports whether a stage has part in its name.
func (f *preview) has(part string) bool {
	return slices.ContainsFunc(f.all, func(s graph.Preview) bool { return strings.Contains(s.Node.Name, part) })
}

// next explains the stages that would run now: their key is known and has no entry in
// the cache.
func (f *preview) next(part string) []record.Explanation {
	var all []record.Explanation
	for _, s := range f.all {
		if s.Outcome == graph.WouldReuse || s.Node.Fixed != nil || !strings.Contains(s.Node.Name, part) {
			continue
		}
		x := record.Explanation{Name: s.Node.Name, Stage: s.Node.Stage, When: "next"}
		if s.Outcome == graph.MayRun {
			if part == "" {
				continue // the stages before it are explained
			}
			x.Reason = fmt.Sprintf("%s runs before it; this runs only if that output changes", s.After.Name)
		} else if x.Differences = f.differences(s); len(x.Differences) == 0 {
			x.Reason = strings.TrimPrefix(s.Reason, "cache miss: ")
		}
		for _, t := range f.all {
			if t.After == s.Node {
				x.Then = append(x.Then, t.Node.Name)
			}
		}
		all = append(all, x)
	}
	return all
}

// lastTime explains the newest build that changed one of these machines.
func (f *preview) lastTime(part string) []record.Explanation {
	var newest int64
	for _, s := range f.all {
		if strings.Contains(s.Node.Name, part) {
			was, _ := f.lastOf(s.Node)
			newest = max(newest, was.Since)
		}
	}
	var all []record.Explanation
	for _, s := range f.all {
		was, _ := f.lastOf(s.Node)
		if newest == 0 || was.Since != newest || !strings.Contains(s.Node.Name, part) {
			continue
		}
		x := record.Explanation{Name: s.Node.Name, Stage: s.Node.Stage, When: "last"}
		id, err := cache.ParseActionID(was.Action)
		if err == nil {
			var text []byte
			if text, err = f.store.KeyText(id); err == nil {
				x.Differences = f.differencesOf(s.Node, was.Before, text)
			}
		}
		if len(x.Differences) == 0 {
			x.Reason = "it was built for the first time on " + time.Unix(0, newest).Format(time.DateTime)
		}
		all = append(all, x)
	}
	return all
}

// planSummary is a preview for people and programs.
type planSummary struct {
	Constellation string      `json:"constellation"`
	Reused        int         `json:"reused"`
	Run           int         `json:"run"`
	Maybe         int         `json:"maybe"`
	Seconds       float64     `json:"seconds"`
	Stages        []planStage `json:"stages"`
}

func (p *planSummary) print(e *env) {
	downloads := 0
	for _, s := range p.Stages {
		if s.Stage == "fetch" && s.Outcome == "run" {
			if downloads++; downloads > maxDownloads && !e.ui.verbose {
				continue
			}
		}
		switch s.Outcome {
		case "run":
			e.ui.say("run    %-40s %8s  %s", s.Name, secondsText(s.Seconds), s.Reason)
		case "maybe":
			e.ui.say("maybe  %-40s %8s  after %s", s.Name, secondsText(s.Seconds), s.After)
		default:
			if e.ui.verbose {
				e.ui.say("reuse  %s", s.Name)
			}
		}
	}
	if more := downloads - maxDownloads; more > 0 && !e.ui.verbose {
		e.ui.say("run    and %d more downloads", more)
	}
	text := fmt.Sprintf("%s: %d stages: %d cached, %d to run", p.Constellation, len(p.Stages), p.Reused, p.Run)
	if p.Maybe > 0 {
		their := "their"
		if p.Run == 1 {
			their = "its"
		}
		text += fmt.Sprintf(", up to %d more if %s output changes", p.Maybe, their)
	}
	if p.Run > 0 {
		text += ", about " + secondsText(p.Seconds)
	}
	e.ui.say("%s", text)
}

type planStage struct {
	Name    string  `json:"name"`
	Stage   string  `json:"stage"`
	Outcome string  `json:"outcome"`
	Reason  string  `json:"reason,omitempty"`
	After   string  `json:"after,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

var outcomes = map[graph.Outcome]string{graph.WouldReuse: "reused", graph.WouldRun: "run", graph.MayRun: "maybe"}

// maxDownloads is how many downloads have a line of their own.
const maxDownloads = 5

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
