// Package draw draws builds: the graph of their nodes, and a chart of when each
// one ran. It knows neither plans nor records, and writes texts only.
package draw

import (
	"fmt"
	"strconv"
	"strings"
)

// Text formats numbers for people.
type Text struct {
	Seconds func(float64) string
	Bytes   func(int64) string
}

// Graph is a graph to be drawn. It shows all downloads of a node as one node.
type Graph struct {
	Nodes []Node   `json:"nodes"`
	Edges [][2]int `json:"edges"` // IDs: an input, and the node that uses it
	title string
	text  Text
}

// Node is a node of the drawing.
type Node struct {
	ID      int     `json:"id"`
	Name    string  `json:"name"`
	Stage   string  `json:"stage"`
	Outcome string  `json:"outcome"` // reused, run or maybe of a preview; ran, failed or skipped of a build
	Count   int     `json:"count"`   // downloads in it, or 1
	Seconds float64 `json:"seconds,omitempty"`
	Bytes   int64   `json:"bytes,omitempty"` // of its outputs; 0 means unknown
	machine string  // the machine that it belongs to, or ""
}

// Part is a node to be drawn.
type Part struct {
	Node
	Machine  string // the machine that it belongs to, or ""
	Inputs   []int  // indexes of parts before it
	Download bool
}

// New lays out a graph of the parts.
func New(title string, parts []Part, text Text) *Graph {
	g := &Graph{title: title, text: text, Edges: [][2]int{}}
	ids := make([]int, len(parts))
	for i, p := range parts {
		if p.Download {
			continue
		}
		n := p.Node
		n.ID, n.Count, n.machine = len(g.Nodes), 1, p.Machine
		ids[i] = n.ID
		g.Nodes = append(g.Nodes, n)
		g.addInputs(n, p.Inputs, parts, ids)
	}
	return g
}

// addInputs adds the edges to a node, and a node for its downloads.
func (g *Graph) addInputs(n Node, inputs []int, parts []Part, ids []int) {
	seen := make(map[int]bool)
	downloads := Node{Stage: "fetch", Outcome: "reused", machine: n.machine}
	for _, in := range inputs {
		if parts[in].Download {
			downloads.Count++
			downloads.Bytes += parts[in].Bytes
			if parts[in].Outcome != "reused" {
				downloads.Outcome = parts[in].Outcome
			}
			continue
		}
		if id := ids[in]; !seen[id] {
			seen[id] = true
			g.Edges = append(g.Edges, [2]int{id, n.ID})
		}
	}
	if downloads.Count == 0 {
		return
	}
	downloads.ID, downloads.Name = len(g.Nodes), "1 download"
	if downloads.Count > 1 {
		downloads.Name = fmt.Sprint(downloads.Count, " downloads")
	}
	g.Nodes = append(g.Nodes, downloads)
	g.Edges = append(g.Edges, [2]int{downloads.ID, n.ID})
}

// state returns a node's outcome, time and size.
func (g *Graph) state(n Node) string {
	text := n.Outcome
	switch {
	case n.Stage == "fetch":
	case n.Outcome == "run" || n.Outcome == "maybe":
		text += ", about " + g.text.Seconds(n.Seconds)
	case n.Outcome == "ran" || n.Outcome == "failed":
		text += ", " + g.text.Seconds(n.Seconds)
	}
	if n.Bytes > 0 {
		text += ", " + g.text.Bytes(n.Bytes)
	}
	return text
}

// label returns a node's name, and its outcome if it is not reused.
func (g *Graph) label(n Node) string {
	if n.Outcome == "reused" {
		return n.Name
	}
	return n.Name + ", " + n.Outcome + " " + g.text.Seconds(n.Seconds)
}

// Dot returns the graph in the language of Graphviz.
func (g *Graph) Dot() string {
	var b strings.Builder
	fmt.Fprintf(&b, "digraph %s {\n  rankdir=LR\n  node [shape=box, fontname=\"sans-serif\"]\n", strconv.Quote(g.title))
	style := map[string]string{"reused": "rounded", "run": "bold", "maybe": "dashed", "ran": "bold", "failed": "filled", "skipped": "dotted"}
	for _, n := range g.Nodes {
		fmt.Fprintf(&b, "  n%d [label=%s, style=%s]\n", n.ID, strconv.Quote(g.label(n)), style[n.Outcome])
	}
	for _, e := range g.Edges {
		fmt.Fprintf(&b, "  n%d -> n%d\n", e[0], e[1])
	}
	return b.String() + "}"
}

// Mermaid returns the graph in the language of Mermaid, which Markdown viewers
// draw.
func (g *Graph) Mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	shapes := map[string][2]string{"reused": {"(", ")"}, "run": {"[[", "]]"}, "maybe": {"{{", "}}"}}
	for _, n := range g.Nodes {
		s := shapes[n.Outcome]
		fmt.Fprintf(&b, "  n%d%s\"%s\"%s\n", n.ID, s[0], strings.NewReplacer(`"`, "#quot;", "\n", " ").Replace(g.label(n)), s[1])
	}
	for _, e := range g.Edges {
		fmt.Fprintf(&b, "  n%d --> n%d\n", e[0], e[1])
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// Cut shortens a text in its middle to n letters.
func Cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n/2]) + "…" + string(r[len(r)-n/2+1:])
}
