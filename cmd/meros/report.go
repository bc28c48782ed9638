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
)

type reportCmd struct {
	Build  string `arg:"" optional:"" help:"A build as meros history shows it, or a constellation: its newest build (default: the newest of all)."`
	Output string `short:"o" placeholder:"FILE" help:"Where to write the page (default: data/reports/BUILD.html)."`
	Trace  string `placeholder:"FILE" help:"Write what ran when in the trace format of Chrome and Perfetto instead of a page."`
}

// Run implements the verb.
func (c *reportCmd) Run(e *env) error {
	rs := e.records()
	b, err := rs.find(c.Build)
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
	r := newReport(store, b, rs.before(b))
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

// report is what a page shows of a build.
type report struct {
	*buildRecord
	Saved     float64 // seconds that the cached stages took when they ran
	Made      int64   // bytes of outputs of what ran
	Reused    int64   // bytes of outputs of what did not
	Critical  []*reportStage
	Busy      float64 // sum of what ran, seconds
	Gantt     template.HTML
	Graph     template.HTML
	GraphSize int
	Done      []*reportStage // ran or failed, the slowest first
	Rest      []*reportStage // cached or skipped
	Materials []material
	Impure    []string
	Before    *recordHead
	Changes   []explanation
}

type reportStage struct {
	recordStage
	Index    int
	Bytes    int64
	Critical bool
	Text     string // of its log
	Cut      bool   // the log is longer
}

// material is what came from a network.
type material struct {
	Name, Digest, URL string
	Size              int64
	Images            []string // that have it in them, by the machines' names
}

// graphMost is how many nodes are drawn; more are no picture any more.
const graphMost = 1500

// reportStages are the stages of a build, in its order.
func (b *buildRecord) reportStages() []*reportStage {
	all := make([]*reportStage, len(b.Stages))
	for i, s := range b.Stages {
		all[i] = &reportStage{recordStage: s, Index: i, Bytes: sizeOf(s.Outputs)}
	}
	return all
}

func newReport(store *cache.Store, b, before *buildRecord) *report {
	r := &report{buildRecord: b, Materials: b.materials()}
	all := b.reportStages()
	for _, s := range all {
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
	r.Critical = criticalPath(all)
	for _, s := range r.Critical {
		s.Critical = true
	}
	r.Gantt = template.HTML(gantt(all, b.Seconds)) // made of escaped texts
	if p := b.picture(); len(p.Nodes) <= graphMost {
		r.Graph = template.HTML(p.svg())
		r.GraphSize = len(p.Nodes)
	}
	slices.SortStableFunc(r.Done, func(x, y *reportStage) int { return cmp.Compare(y.Seconds, x.Seconds) })
	if before != nil {
		r.Before, r.Changes = &before.recordHead, differencesBetween(store, before, b, "")
	}
	return r
}

// logMost is how much of a log is shown, bytes: its end.
const logMost = 64 << 10

func (s *reportStage) readLog(store *cache.Store) {
	file, err := s.logFile(store)
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

// criticalPath is the chain of stages that the build had to wait for: back from
// the one that ended last, always to the input that ended last.
func criticalPath(all []*reportStage) []*reportStage {
	end := func(s *reportStage) float64 {
		if s.Outcome != "ran" && s.Outcome != "failed" {
			return -1
		}
		return s.Start + s.Seconds
	}
	var last *reportStage
	for _, s := range all {
		if end(s) >= 0 && (last == nil || end(s) > end(last)) {
			last = s
		}
	}
	var path []*reportStage
	for last != nil {
		path = append(path, last)
		var next *reportStage
		for _, i := range last.Inputs {
			if s := all[i]; end(s) >= 0 && (next == nil || end(s) > end(next)) {
				next = s
			}
		}
		last = next
	}
	slices.Reverse(path)
	return path
}

// materials are the downloads, with the machines whose images are made of them.
func (b *buildRecord) materials() []material {
	images := make([]map[string]bool, len(b.Stages))
	for i := len(b.Stages) - 1; i >= 0; i-- {
		s := b.Stages[i]
		if images[i] == nil {
			images[i] = make(map[string]bool)
		}
		if machine, _, ok := ownedBy(b.Name, s.Name); ok && s.Target {
			images[i][machine] = true
		}
		for _, in := range s.Inputs {
			if images[in] == nil {
				images[in] = make(map[string]bool)
			}
			for m := range images[i] {
				images[in][m] = true
			}
		}
	}
	all := []material{}
	for i, s := range b.Stages {
		if s.Stage != "fetch" {
			continue
		}
		m := material{Name: s.Name, URL: s.URL}
		for _, a := range s.Outputs {
			m.Digest, m.Size = string(a.Digest), a.Size
		}
		for machine := range images[i] {
			m.Images = append(m.Images, machine)
		}
		slices.Sort(m.Images)
		all = append(all, m)
	}
	return all
}

// In names the images.
func (m material) In() string {
	if len(m.Images) > 4 {
		return fmt.Sprintf("%s and %d more", strings.Join(m.Images[:3], ", "), len(m.Images)-3)
	}
	return strings.Join(m.Images, ", ")
}

// picture is what a build was.
func (b *buildRecord) picture() *picture {
	all := make([]pictured, len(b.Stages))
	for i, s := range b.Stages {
		p := &all[i]
		p.Name, p.Stage, p.Outcome, p.Seconds, p.Bytes = s.Name, s.Stage, s.Outcome, s.Seconds, sizeOf(s.Outputs)
		if s.Outcome == "cached" {
			p.Outcome = "reused"
		}
		p.inputs, p.download = s.Inputs, s.Stage == "fetch"
	}
	return newPicture(b.Name, all)
}
