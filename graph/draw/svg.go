// This file draws a graph as SVG: columns by depth, and a lane for each machine.

package draw

import (
	"fmt"
	"html"
	"strings"
)

// Sizes of a drawing, in pixels.
const (
	boxWidth, boxHeight = 250, 40
	columnGap, rowGap   = 60, 14
	laneGap, margin     = 26, 20
	lettersInBox        = 38
)

// spot is the place of a node.
type spot struct{ x, y int }

// lane holds the nodes of one machine, or the shared ones.
type lane struct {
	name      string
	top, rows int
}

// layout puts each node into the column after its inputs, and into the lane of its
// machine.
func (g *Graph) layout() (spots []spot, lanes []lane, width, height int) {
	column := make([]int, len(g.Nodes))
	for changed := true; changed; { // a download stands after the node that uses it
		changed = false
		for _, e := range g.Edges {
			if column[e[1]] <= column[e[0]] {
				column[e[1]], changed = column[e[0]]+1, true
			}
		}
	}
	laneOf := make(map[string]int)
	for _, name := range g.machines() {
		laneOf[name] = len(lanes)
		lanes = append(lanes, lane{name: name})
	}
	row, used := make([]int, len(g.Nodes)), make(map[[2]int]int)
	for i, n := range g.Nodes {
		l := laneOf[n.machine]
		at := [2]int{l, column[i]}
		row[i] = used[at]
		used[at]++
		lanes[l].rows = max(lanes[l].rows, used[at])
		width = max(width, margin*2+(column[i]+1)*(boxWidth+columnGap)-columnGap)
	}
	y := margin
	for i := range lanes {
		lanes[i].top = y
		y += 20 + lanes[i].rows*(boxHeight+rowGap) + laneGap
	}
	spots = make([]spot, len(g.Nodes))
	for i, n := range g.Nodes {
		spots[i] = spot{margin + column[i]*(boxWidth+columnGap), lanes[laneOf[n.machine]].top + 20 + row[i]*(boxHeight+rowGap)}
	}
	return spots, lanes, width, y + 30
}

// machines returns the names of the lanes, the shared one first.
func (g *Graph) machines() []string {
	names := []string{""}
	seen := map[string]bool{"": true}
	for _, n := range g.Nodes {
		if !seen[n.machine] {
			seen[n.machine] = true
			names = append(names, n.machine)
		}
	}
	return names
}

// SVG returns the graph as a drawing that a browser shows. Nodes that run have a
// thick frame and nodes that may run a dashed one: no reader needs colours.
func (g *Graph) SVG() string {
	spots, lanes, width, height := g.layout()
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12" role="img">
<title>%s</title>
<style>
svg { background: #fff } text { fill: #222 } rect { fill: #fff; stroke: #667 } path { fill: none; stroke: #99a }
.run, .ran { fill: #fde8c8; stroke: #a50; stroke-width: 3 } .failed { fill: #fbd0d0; stroke: #b00; stroke-width: 5 } .maybe, .skipped { fill: #f6f2da; stroke: #770; stroke-dasharray: 6 4 } .lane { font-weight: bold }
@media (prefers-color-scheme: dark) {
svg { background: #1b1d22 } text { fill: #ddd } rect { fill: #262a31; stroke: #889 } path { stroke: #667 }
.run, .ran { fill: #51351a; stroke: #fa4 } .failed { fill: #5a1d1d; stroke: #f66 } .maybe, .skipped { fill: #3b3820; stroke: #cc5 } }
</style>
`, width, height, width, height, html.EscapeString(g.title))
	for _, e := range g.Edges {
		from, to := spots[e[0]], spots[e[1]]
		x1, y1, x2, y2 := from.x+boxWidth, from.y+boxHeight/2, to.x, to.y+boxHeight/2
		fmt.Fprintf(&b, "<path d=\"M%d %dC%d %d %d %d %d %d\"/>\n", x1, y1, (x1+x2)/2, y1, (x1+x2)/2, y2, x2, y2)
	}
	for _, l := range lanes {
		name := l.name
		if name == "" {
			name = "shared"
		}
		fmt.Fprintf(&b, "<text class=\"lane\" x=\"%d\" y=\"%d\">%s</text>\n", margin, l.top+12, html.EscapeString(name))
	}
	for i, n := range g.Nodes {
		s := spots[i]
		fmt.Fprintf(&b, "<g><title>%s</title><rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"6\"/>", html.EscapeString(g.label(n)), n.Outcome, s.x, s.y, boxWidth, boxHeight)
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\">%s</text><text x=\"%d\" y=\"%d\" font-size=\"11\">%s</text></g>\n",
			s.x+8, s.y+17, html.EscapeString(Cut(n.Name, lettersInBox)), s.x+8, s.y+32, g.state(n))
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" font-size=\"11\">thin frame: reused; thick: runs; thickest: failed; dashed: runs if its inputs change, or skipped</text>\n", margin, height-12)
	return b.String() + "</svg>"
}
