// This file is the verb report: it writes a page about a build, or a trace of it.

package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"meros/cache"
	"meros/graph/draw"
	"meros/graph/record"
)

type reportCmd struct {
	Build  string `arg:"" optional:"" help:"ID of a build in meros history, or a constellation for its newest build (default: the newest of all)."`
	Output string `short:"o" placeholder:"FILE" help:"File for the page (default: data/reports/BUILD.html)."`
	Trace  string `placeholder:"FILE" help:"Write a trace for Chrome and Perfetto to this file instead of a page."`
}

// Run implements the verb.
func (c *reportCmd) Run(e *env) error {
	rs := e.records()
	b, err := rs.Find(c.Build)
	if err != nil {
		return err
	}
	if c.Trace != "" {
		return writeTrace(c.Trace, b, e.outputMode)
	}
	store, err := e.openStore(true)
	if err != nil {
		return err
	}
	r := newReport(store, b, rs.Before(b))
	var page bytes.Buffer
	if err := reportTemplate().Execute(&page, r); err != nil {
		return fmt.Errorf("write the report of %s: %w", b.ID, err)
	}
	file := c.Output
	if file == "" {
		file = filepath.Join(e.reportsDir(), b.ID+".html")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(file, page.Bytes(), e.outputMode); err != nil {
		return err
	}
	e.ui.say("%s", file)
	return nil
}

//go:embed report.html
var reportPage string

func reportTemplate() *template.Template {
	return template.Must(template.New("report").Funcs(template.FuncMap{
		"bytes": bytesText, "seconds": secondsText, "join": strings.Join,
		"date": func(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") },
	}).Parse(reportPage))
}

// drawText formats the numbers of drawings.
var drawText = draw.Text{Seconds: secondsText, Bytes: bytesText}

// report is the data of the page.
type report struct {
	*record.Build
	Saved     float64 // seconds that the cached stages took when they ran
	Made      int64   // bytes of the outputs of the stages that ran
	Reused    int64   // bytes of the outputs of the others
	Critical  []*reportStage
	Busy      float64 // seconds, the sum of the stages that ran
	Gantt     template.HTML
	Graph     template.HTML
	GraphSize int
	Done      []*reportStage // ran or failed, the slowest first
	Rest      []*reportStage // cached or skipped
	Materials []record.Material
	Impure    []string
	Before    *record.Head
	Changes   []record.Explanation
}

type reportStage struct {
	record.Node
	Index    int
	Bytes    int64
	Critical bool
	Text     string // the end of the log
	Cut      bool   // the log is longer
}

// graphMost is how many nodes are drawn. A larger drawing shows nothing.
const graphMost = 1500

func newReport(store *cache.Store, b, before *record.Build) *report {
	r := &report{Build: b, Materials: b.Materials()}
	all := make([]*reportStage, len(b.Stages))
	for i, n := range b.Stages {
		s := &reportStage{Node: n, Index: i, Bytes: n.Size()}
		all[i] = s
		if s.Network {
			r.Impure = append(r.Impure, s.Name)
		}
		switch s.Outcome {
		case "ran", "failed":
			r.Made += s.Bytes
			r.Busy += s.Seconds
			s.readLog(store)
			r.Done = append(r.Done, s)
			continue
		case "cached":
			r.Reused += s.Bytes
			if id, err := cache.ParseActionID(s.Key); err == nil {
				if entry, err := store.Lookup(id); err == nil {
					r.Saved += entry.Duration.Seconds()
				}
			}
		}
		r.Rest = append(r.Rest, s)
	}
	for _, i := range record.CriticalPath(b.Stages) {
		all[i].Critical = true
		r.Critical = append(r.Critical, all[i])
	}
	r.Gantt = template.HTML(draw.Chart(barsOf(b), b.Seconds, drawText)) // the package escapes texts
	if g := buildGraph(b); len(g.Nodes) <= graphMost {
		r.Graph = template.HTML(g.SVG())
		r.GraphSize = len(g.Nodes)
	}
	slices.SortStableFunc(r.Done, func(x, y *reportStage) int { return cmp.Compare(y.Seconds, x.Seconds) })
	if before != nil {
		r.Before, r.Changes = &before.Head, record.Between(store, before, b, "")
	}
	return r
}

// logMost is how many bytes of a log's end are shown.
const logMost = 64 << 10

func (s *reportStage) readLog(store *cache.Store) {
	file, err := s.LogFile(store)
	if err != nil {
		return
	}
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > logMost {
		f.Seek(-logMost, io.SeekEnd)
		s.Cut = true
	}
	text, _ := io.ReadAll(io.LimitReader(f, logMost))
	lines := strings.Split(strings.TrimRight(strings.ToValidUTF8(string(text), "\uFFFD"), "\n"), "\n")
	for i, l := range lines {
		lines[i] = printable(l)
	}
	s.Text = strings.Join(lines, "\n")
}

// buildGraph returns the graph of a build.
func buildGraph(b *record.Build) *draw.Graph {
	parts := make([]draw.Part, len(b.Stages))
	for i, n := range b.Stages {
		p := &parts[i]
		p.Node = draw.Node{Name: n.Name, Stage: n.Stage, Outcome: n.Outcome, Seconds: n.Seconds, Bytes: n.Size()}
		if n.Outcome == "cached" {
			p.Outcome = "reused"
		}
		p.Machine, _, _ = record.OwnedBy(b.Name, n.Name)
		p.Inputs, p.Download = n.Inputs, n.Stage == "fetch"
	}
	return draw.New(b.Name, parts, drawText)
}

// barsOf returns the stages of a build that ran.
func barsOf(b *record.Build) (bars []draw.Bar) {
	critical := record.CriticalPath(b.Stages)
	for i, n := range b.Stages {
		if n.Outcome == "ran" || n.Outcome == "failed" {
			bars = append(bars, draw.Bar{
				Name: n.Name, Stage: n.Stage, Outcome: n.Outcome, Start: n.Start, Seconds: n.Seconds, Critical: slices.Contains(critical, i), Anchor: i,
				Args: map[string]any{"key": n.Key, "outcome": n.Outcome, "bytes": n.Size(), "reason": n.Reason},
			})
		}
	}
	return bars
}

func writeTrace(file string, b *record.Build, mode os.FileMode) error {
	text, err := draw.Trace("meros "+b.Verb+" "+b.Name, barsOf(b))
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), mode); err != nil {
		return fmt.Errorf("write the trace of %s: %w", b.ID, err)
	}
	return nil
}
