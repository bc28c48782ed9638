package main

import (
	"fmt"
	"html"
	"strconv"
	"strings"

	"meros/graph"
)

type graphCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       []string `arg:"" optional:"" help:"Machines (default: all)."`
	Format        string   `enum:"svg,html,dot,mermaid,json" default:"svg" help:"What to print: ${enum}. JSON is {\"nodes\": [{\"id\", \"name\", \"stage\", \"outcome\", \"count\", \"seconds\", \"bytes\"}], \"edges\": [[from, to]]}."`
	RootfsOnly    bool     `help:"As of build."`
	Boot          bool     `help:"As of build."`
}

// Run implements the verb: it draws what a build is made of.
func (c *graphCmd) Run(e *env) error {
	f, err := (&request{Constellation: c.Constellation, Machines: c.Machine, RootfsOnly: c.RootfsOnly, Boot: c.Boot}).preview(e)
	if err != nil {
		return err
	}
	p := f.picture()
	switch c.Format {
	case "json":
		return e.sayJSON(p)
	case "dot":
		e.ui.say("%s", p.dot())
	case "mermaid":
		e.ui.say("%s", p.mermaid())
	case "html":
		e.ui.say("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>%s</title>\n<body style=\"margin:0\">\n%s\n</body></html>", html.EscapeString(p.title), p.svg())
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
	Outcome string  `json:"outcome"` // reused, run or maybe of what would be; ran, failed or skipped of what was
	Count   int     `json:"count"`   // of downloads
	Seconds float64 `json:"seconds,omitempty"`
	Bytes   int64   `json:"bytes,omitempty"` // of its outputs, if they are known
	machine string  // whose alone it is, or ""
}

// pictured is a stage that is to be drawn, after those that it is made of.
type pictured struct {
	pictureNode
	inputs   []int // places in the list
	download bool
}

func sizeOf(outputs map[string]graph.Artifact) (n int64) {
	for _, a := range outputs {
		n += a.Size
	}
	return n
}

// ownedBy takes the name of a node that is one machine's alone apart: the
// machine's, and what it is of that.
func ownedBy(constellation, node string) (machine, what string, ok bool) {
	rest, ok := strings.CutPrefix(node, constellation+"/")
	if !ok {
		return "", "", false
	}
	machine, what, _ = strings.Cut(rest, " ")
	return machine, what, true
}

func newPicture(title string, all []pictured) *picture {
	p := &picture{title: title, Edges: [][2]int{}}
	ids := make([]int, len(all))
	for i, s := range all {
		if s.download {
			continue
		}
		n := s.pictureNode
		n.ID, n.Count = len(p.Nodes), 1
		n.machine, _, _ = ownedBy(title, n.Name)
		ids[i] = n.ID
		p.Nodes = append(p.Nodes, n)
		p.inputs(n, s.inputs, all, ids)
	}
	return p
}

// inputs adds what goes into a node.
func (p *picture) inputs(n pictureNode, inputs []int, all []pictured, ids []int) {
	seen := make(map[int]bool)
	downloads := pictureNode{Stage: "fetch", Outcome: outcomes[graph.WouldReuse], machine: n.machine}
	for _, in := range inputs {
		if all[in].download {
			downloads.Count++
			downloads.Bytes += all[in].Bytes
			if all[in].Outcome != outcomes[graph.WouldReuse] {
				downloads.Outcome = all[in].Outcome
			}
			continue
		}
		if id := ids[in]; !seen[id] {
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

// state tells what is or was done with a node, how long that takes, and how
// large what it gives is.
func (n pictureNode) state() string {
	text := n.Outcome
	switch {
	case n.Stage == "fetch":
	case n.Outcome == "run" || n.Outcome == "maybe":
		text += ", about " + secondsText(n.Seconds)
	case n.Outcome == "ran" || n.Outcome == "failed":
		text += ", " + secondsText(n.Seconds)
	}
	if n.Bytes > 0 {
		text += ", " + bytesText(n.Bytes)
	}
	return text
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
	style := map[string]string{"reused": "rounded", "run": "bold", "maybe": "dashed", "ran": "bold", "failed": "filled", "skipped": "dotted"}
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
