// This file draws the live region: the running stages and the progress of the build,
// below the last line of a terminal.

package main

import (
	"bytes"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"meros/graph"
	"meros/graph/draw"
	"meros/runner/host"
)

// redraw is the shortest time between two drawings of the live region, and tickLive
// the longest.
const (
	redraw   = 100 * time.Millisecond
	tickLive = 500 * time.Millisecond
)

// maxLive is how many running nodes have a line of their own.
const maxLive = 8

// live is the state of the region at the end of the screen that is drawn while a build runs.
type live struct {
	expected map[*graph.Node]time.Duration // of the nodes that are expected to run and have not ended
	toRun    int                           // how many they were at the start
	ran      int
	cached   int
	jobs     int
	cpu      host.CPUMeter
	blocks   bool // the terminal shows Unicode
	stop     chan struct{}
}

// begin announces a build. If quiet is set, event leaves out cached nodes. preview may
// be nil.
func (u *ui) begin(quiet bool, preview []graph.Preview, h graph.History, jobs int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.quiet = quiet
	u.live = live{expected: make(map[*graph.Node]time.Duration), jobs: max(jobs, 1), blocks: unicodeTerminal(), stop: make(chan struct{})}
	for _, f := range preview {
		if f.Outcome != graph.WouldReuse {
			u.live.expected[f.Node] = h.Expect(f.Node)
		}
	}
	u.live.toRun = len(u.live.expected)
	if u.mode == "tty" {
		go u.tick(u.live.stop)
	}
}

// tick redraws the times while nothing happens.
func (u *ui) tick(stop chan struct{}) {
	t := time.NewTicker(tickLive)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			u.mu.Lock()
			u.draw(false)
			u.mu.Unlock()
		}
	}
}

// end stops the redrawing that begin started.
func (u *ui) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.live.stop != nil {
		close(u.live.stop)
		u.live.stop = nil
	}
}

// draw shows the running nodes below the last line, in one write, so that the screen
// does not flicker.
func (u *ui) draw(force bool) {
	if u.mode != "tty" || len(u.running) == 0 || !force && time.Since(u.drawnAt) < redraw {
		return
	}
	width, height := u.size()
	lines := u.frame(width, height, time.Now())
	var b bytes.Buffer
	b.WriteString(u.erasure())
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
	u.err.Write(b.Bytes())
	u.drawn, u.drawnAt = lines, time.Now()
}

// erasure returns the text that removes the live region from the screen. A terminal
// that has become narrower shows a line in several rows.
func (u *ui) erasure() string {
	if len(u.drawn) == 0 {
		return ""
	}
	width, _ := u.size()
	rows := 0
	for _, l := range u.drawn {
		rows += max(1, (len([]rune(l))+width-1)/width)
	}
	return fmt.Sprintf("\x1b[%dA\x1b[J", rows)
}

// frame returns the lines of the live region for a screen of that many cells.
func (u *ui) frame(width, height int, now time.Time) []string {
	nodes := make([]*graph.Node, 0, len(u.running))
	for n := range u.running {
		nodes = append(nodes, n)
	}
	sort.Slice(nodes, func(i, j int) bool {
		a, b := u.running[nodes[i]].since, u.running[nodes[j]].since
		return a.Before(b) || a.Equal(b) && nodes[i].Name < nodes[j].Name
	})
	shown := nodes[:min(len(nodes), max(min(maxLive, height-3), 1))]
	name := 0
	for _, n := range shown {
		name = max(name, len([]rune(n.Name)))
	}
	name = min(name, max(width/3, 12))
	var lines []string
	for _, n := range shown {
		lines = append(lines, fit(u.nodeLine(n, name, now), width))
	}
	if more := len(nodes) - len(shown); more > 0 {
		lines = append(lines, fit(fmt.Sprintf("%8s  and %d more", "", more), width))
	}
	return append(lines, fit(u.footer(len(nodes), now), width))
}

// nodeLine returns the progress of a node.
func (u *ui) nodeLine(n *graph.Node, width int, now time.Time) string {
	a := u.running[n]
	took := now.Sub(a.since)
	line := fmt.Sprintf("%8s  %-*s", seconds(took), width, draw.Cut(n.Name, width))
	switch {
	case a.total > 0:
		return line + "  " + u.live.bar(float64(a.done)/float64(a.total)) + "  " + progressText(n, a)
	case a.line != "":
		return line + "  " + printable(a.line)
	}
	return line
}

// barCells is the width of a bar.
const barCells = 16

// bar draws a fraction as a bar.
func (l *live) bar(part float64) string {
	full := int(max(min(part, 1), 0)*barCells + 0.5)
	if l.blocks {
		return strings.Repeat("█", full) + strings.Repeat("░", barCells-full)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barCells-full) + "]"
}

// footer returns the progress of the build.
func (u *ui) footer(running int, now time.Time) string {
	l := &u.live
	done := fmt.Sprintf("%d done", l.ran)
	if l.toRun > 0 {
		done = fmt.Sprintf("%d of %d done", l.ran, max(l.toRun, l.ran+running))
	}
	line := fmt.Sprintf("%8s  %s, %d running, %d cached", seconds(now.Sub(u.start)), done, running, l.cached)
	if left := u.left(now); left >= time.Second {
		line += fmt.Sprintf(", about %d s left", int(left.Seconds()+0.5))
	}
	if cpu, ok := l.cpu.Busy(now); ok {
		line += fmt.Sprintf(", cpu %d%%", cpu)
	}
	return line
}

// left estimates how long the build still takes: as long as the longest running node,
// or as all remaining nodes divided by the jobs.
func (u *ui) left(now time.Time) time.Duration {
	var sum, longest time.Duration
	for n, d := range u.live.expected {
		if a := u.running[n]; a != nil {
			d = max(d-now.Sub(a.since), 0)
			longest = max(longest, d)
		}
		sum += d
	}
	return max(longest, sum/time.Duration(u.live.jobs))
}

// progressText returns the progress of a node: of a download in bytes, of others in steps.
func progressText(n *graph.Node, a *activity) string {
	if n.Needs.Download {
		return fmt.Sprintf("%s of %s", bytesText(a.done), bytesText(a.total))
	}
	return fmt.Sprintf("%d of %d", a.done, a.total)
}

// erase removes the live region. The caller holds the mutex.
func (u *ui) erase() {
	if len(u.drawn) > 0 {
		fmt.Fprint(u.err, u.erasure())
		u.drawn = nil
	}
}

// unicodeTerminal reports whether the locale uses UTF-8, locale(7).
func unicodeTerminal() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToUpper(os.Getenv(name)); v != "" {
			return strings.Contains(v, "UTF-8") || strings.Contains(v, "UTF8")
		}
	}
	return false
}
