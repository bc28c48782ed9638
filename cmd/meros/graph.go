// This file is the verb graph: it draws the graph of a build.

package main

import (
	"html"

	"meros/graph"
	"meros/graph/draw"
	"meros/graph/record"
)

type graphCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       []string `arg:"" optional:"" help:"Machines (default: all)."`
	Format        string   `enum:"svg,html,dot,mermaid,json" default:"svg" help:"Format: ${enum}. JSON is {\"nodes\": [{\"id\", \"name\", \"stage\", \"outcome\", \"count\", \"seconds\", \"bytes\"}], \"edges\": [[from, to]]}."`
	RootfsOnly    bool     `help:"As for build."`
	Boot          bool     `help:"As for build."`
}

// Run implements the verb.
func (c *graphCmd) Run(e *env) error {
	f, err := (&request{Constellation: c.Constellation, Machines: c.Machine, RootfsOnly: c.RootfsOnly, Boot: c.Boot}).preview(e)
	if err != nil {
		return err
	}
	p := f.graph()
	switch c.Format {
	case "json":
		return e.sayJSON(p)
	case "dot":
		e.ui.say("%s", p.Dot())
	case "mermaid":
		e.ui.say("%s", p.Mermaid())
	case "html":
		e.ui.say("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>%s</title>\n<body style=\"margin:0\">\n%s\n</body></html>", html.EscapeString(f.manifest.Name), p.SVG())
	default:
		e.ui.say("%s", p.SVG())
	}
	return nil
}

// graph returns the graph of the preview.
func (p *preview) graph() *draw.Graph {
	parts := make([]draw.Part, len(p.all))
	place := make(map[*graph.Node]int)
	for i, s := range p.all {
		place[s.Node] = i
		part := &parts[i]
		part.Node = draw.Node{Name: s.Node.Name, Stage: s.Node.Stage, Outcome: outcomes[s.Outcome]}
		part.Machine, _, _ = record.OwnedBy(p.manifest.Name, s.Node.Name)
		part.Download = s.Node.Fixed != nil
		if s.Outcome != graph.WouldReuse {
			part.Seconds = record.Seconds(p.history.Expect(s.Node))
		} else if entry, err := p.store.Lookup(s.Action); err == nil && !part.Download {
			part.Bytes = record.SizeOf(entry.Outputs)
		}
		for _, in := range s.Node.Inputs {
			part.Inputs = append(part.Inputs, place[in.Node])
		}
	}
	return draw.New(p.manifest.Name, parts, drawText)
}
