package main

import (
	"fmt"
	"strconv"
	"strings"

	"meros/graph"
)

type graphCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       []string `arg:"" optional:"" help:"Machines (default: all)."`
	Format        string   `enum:"svg,dot,mermaid,json" default:"svg" help:"What to print: ${enum}. JSON is {\"nodes\": [{\"id\", \"name\", \"stage\", \"outcome\", \"count\", \"seconds\"}], \"edges\": [[from, to]]}."`
	RootfsOnly    bool     `help:"As of build."`
	Boot          bool     `help:"As of build."`
}

// Run implements the verb: it draws what a build is made of.
func (c *graphCmd) Run(e *env) error {
	f, err := (&buildCmd{Constellation: c.Constellation, Machine: c.Machine, RootfsOnly: c.RootfsOnly, Boot: c.Boot}).foresee(e)
	if err != nil {
		return err
	}
	p := newPicture(f)
	switch c.Format {
	case "json":
		return e.sayJSON(p)
	case "dot":
		e.ui.say("%s", p.dot())
	case "mermaid":
		e.ui.say("%s", p.mermaid())
	default:
		e.ui.say("%s", p.svg())
	}
	return nil
}

// picture is the graph of a build as it is drawn: the downloads of a stage are
// one node.
type picture struct {
	Nodes []pictureNode `json:"nodes"`
	Edges [][2]int      `json:"edges"` // ids: what is made first, and what is made of it
	title string
}

type pictureNode struct {
	ID      int     `json:"id"`
	Name    string  `json:"name"`
	Stage   string  `json:"stage"`
	Outcome string  `json:"outcome"` // reused, run or maybe
	Count   int     `json:"count"`   // of downloads
	Seconds float64 `json:"seconds,omitempty"`
	machine string  // whose alone it is, or ""
}

func newPicture(f *foreseen) *picture {
	p := &picture{title: f.manifest.Name, Edges: [][2]int{}}
	ids, outcome := make(map[*graph.Node]int), make(map[*graph.Node]graph.Outcome)
	for _, s := range f.all {
		outcome[s.Node] = s.Outcome
	}
	for _, s := range f.all {
		if s.Node.Fixed != nil {
			continue
		}
		n := pictureNode{ID: len(p.Nodes), Name: s.Node.Name, Stage: s.Node.Stage, Outcome: outcomes[s.Outcome], Count: 1}
		if s.Outcome != graph.WouldReuse {
			n.Seconds = milliseconds(f.history.Expect(s.Node))
		}
		if rest, ok := strings.CutPrefix(n.Name, f.manifest.Name+"/"); ok {
			n.machine, _, _ = strings.Cut(rest, " ")
		}
		ids[s.Node] = n.ID
		p.Nodes = append(p.Nodes, n)
		p.inputs(s.Node, n, ids, outcome)
	}
	return p
}

// inputs adds what goes into a node.
func (p *picture) inputs(node *graph.Node, n pictureNode, ids map[*graph.Node]int, outcome map[*graph.Node]graph.Outcome) {
	seen := make(map[int]bool)
	downloads := pictureNode{Stage: "fetch", Outcome: outcomes[graph.WouldReuse], machine: n.machine}
	for _, in := range node.Inputs {
		if in.Node.Fixed != nil {
			if downloads.Count++; outcome[in.Node] == graph.WouldRun {
				downloads.Outcome = outcomes[graph.WouldRun]
			}
			continue
		}
		if id := ids[in.Node]; !seen[id] {
			seen[id] = true
			p.Edges = append(p.Edges, [2]int{id, n.ID})
		}
	}
	if downloads.Count == 0 {
		return
	}
	downloads.ID, downloads.Name = len(p.Nodes), "1 download"
	if downloads.Count > 1 {
		downloads.Name = fmt.Sprint(downloads.Count, " downloads")
	}
	p.Nodes = append(p.Nodes, downloads)
	p.Edges = append(p.Edges, [2]int{downloads.ID, n.ID})
}

// label is what is written in a node.
func (n pictureNode) label() string {
	if n.Outcome == "reused" {
		return n.Name
	}
	return n.Name + ", " + n.Outcome + " " + secondsText(n.Seconds)
}

// dot is the graph in the language of Graphviz.
func (p *picture) dot() string {
	var b strings.Builder
	fmt.Fprintf(&b, "digraph %s {\n  rankdir=LR\n  node [shape=box, fontname=\"sans-serif\"]\n", strconv.Quote(p.title))
	style := map[string]string{"reused": "rounded", "run": "bold", "maybe": "dashed"}
	for _, n := range p.Nodes {
		fmt.Fprintf(&b, "  n%d [label=%s, style=%s]\n", n.ID, strconv.Quote(n.label()), style[n.Outcome])
	}
	for _, e := range p.Edges {
		fmt.Fprintf(&b, "  n%d -> n%d\n", e[0], e[1])
	}
	return b.String() + "}"
}

// mermaid is the graph as web pages of repositories show it.
func (p *picture) mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	shapes := map[string][2]string{"reused": {"(", ")"}, "run": {"[[", "]]"}, "maybe": {"{{", "}}"}}
	for _, n := range p.Nodes {
		s := shapes[n.Outcome]
		fmt.Fprintf(&b, "  n%d%s\"%s\"%s\n", n.ID, s[0], strings.NewReplacer(`"`, "#quot;", "\n", " ").Replace(n.label()), s[1])
	}
	for _, e := range p.Edges {
		fmt.Fprintf(&b, "  n%d --> n%d\n", e[0], e[1])
	}
	return strings.TrimSuffix(b.String(), "\n")
}
