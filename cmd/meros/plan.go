// This file is the verb plan: it prints what a build would do.

package main

import (
	"fmt"
	"runtime"

	"meros/graph"
	"meros/graph/record"
)

type planCmd struct {
	Constellation string     `arg:"" help:"Name of the constellation."`
	Machine       []string   `arg:"" optional:"" help:"Machines (default: all)."`
	RootfsOnly    bool       `help:"As for build."`
	Boot          bool       `help:"As for build."`
	Use           givenImage `placeholder:"IMAGE" help:"As for build."`
	JSON          bool       `name:"json" help:"Print JSON: {\"constellation\", \"reused\", \"run\", \"maybe\", \"seconds\", \"stages\": [{\"name\", \"stage\", \"outcome\", \"reason\", \"after\", \"seconds\"}]}; outcome is reused, run or maybe."`
}

// Run implements the verb.
func (c *planCmd) Run(e *env) error {
	f, err := (&request{Constellation: c.Constellation, Machines: c.Machine, RootfsOnly: c.RootfsOnly, Boot: c.Boot, Use: c.Use}).preview(e)
	if err != nil {
		return err
	}
	p := f.summary()
	if c.JSON {
		return e.sayJSON(p)
	}
	p.print(e)
	return nil
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
				e.ui.say("cached %s", s.Name)
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
