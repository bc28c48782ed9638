// This file tests the progress that meros draws on a terminal.

package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"meros/graph"
)

// liveUI returns a ui for a terminal of this size in which nodes run, the nodes,
// and the output.
func liveUI(nodes, width, height int) (*ui, []*graph.Node, *bytes.Buffer) {
	out := new(bytes.Buffer)
	u := newUI(out, out, "tty", false)
	u.size = func() (int, int) { return width, height }
	u.live.jobs = 2
	u.live.expected = make(map[*graph.Node]time.Duration)
	now := time.Unix(1000, 0)
	u.start = now.Add(-90 * time.Second)
	var all []*graph.Node
	for i := range nodes {
		n := &graph.Node{Name: fmt.Sprintf("lab/machine%d hooks", i), Stage: "hooks"}
		u.running[n] = &activity{since: now.Add(-time.Duration(nodes-i) * time.Second), line: "Setting up \x1b[31mbash (5.2)"}
		u.live.expected[n] = 20 * time.Second
		all = append(all, n)
	}
	return u, all, out
}

// TestFrame checks the lines for two running nodes.
func TestFrame(t *testing.T) {
	now := time.Unix(1000, 0)
	u, nodes, _ := liveUI(2, 100, 24)
	u.live.toRun, u.live.ran, u.live.cached = 5, 2, 88
	u.running[nodes[0]].done, u.running[nodes[0]].total = 3, 4
	got := strings.Join(u.frame(100, 24, now), "\n")
	want := `  2.00 s  lab/machine0 hooks  [############....]  3 of 4
  1.00 s  lab/machine1 hooks  Setting up ` + "\uFFFD" + `[31mbash (5.2)
  90.0 s  2 of 5 done, 2 running, 88 cached, about 19 s left`
	if cut, _, _ := strings.Cut(got, ", cpu"); cut != want {
		t.Errorf("the lines are\n%s\nwant\n%s", cut, want)
	}
	u.live.blocks = true
	if first := u.frame(100, 24, now)[0]; !strings.Contains(first, "████████████░░░░  3 of 4") {
		t.Errorf("the first line with block characters is %s", first)
	}
}

// TestFrameFits checks that the lines fit into terminals of all sizes.
func TestFrameFits(t *testing.T) {
	for _, nodes := range []int{1, 3, 200} {
		for _, size := range [][2]int{{200, 60}, {80, 24}, {30, 5}, {12, 2}, {1, 1}} {
			u, _, _ := liveUI(nodes, size[0], size[1])
			lines := u.frame(size[0], size[1], time.Unix(1000, 0))
			if len(lines) > max(size[1], 3) {
				t.Errorf("%d nodes in a terminal of %v: %d lines", nodes, size, len(lines))
			}
			for _, l := range lines {
				if utf8.RuneCountInString(l) >= max(size[0], 1) && l != "" {
					t.Errorf("%d nodes in a terminal of %v: the line %q is too long", nodes, size, l)
				}
			}
		}
	}
}

// TestErasure checks that meros erases the drawn lines, also if the terminal
// became narrower in the meantime.
func TestErasure(t *testing.T) {
	u, _, out := liveUI(3, 60, 24)
	u.draw(true)
	if n := strings.Count(out.String(), "\n"); n != 4 {
		t.Fatalf("the ui drew %d lines, want 4: %q", n, out)
	}
	out.Reset()
	u.size = func() (int, int) { return 20, 24 }
	u.erase()
	if got := out.String(); !strings.HasPrefix(got, "\x1b[") || strings.HasPrefix(got, "\x1b[4A") {
		t.Errorf("%q does not count the rows of wrapped lines", got)
	}
	out.Reset()
	u.erase()
	if out.Len() > 0 {
		t.Errorf("the second erasure printed %q", out)
	}
}
