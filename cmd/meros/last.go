package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"meros/graph"
)

// last is what nodes were the last time: their actions, by the name of what was
// built, a space, and the node's own.
type last map[string]lastAction

// lastAction is a node's action, and the one that it had before that.
type lastAction struct {
	action, before string // 64 digits; before is "" or such
	since          int64  // nanoseconds since 1970, when the build ended that changed it
}

// readLast reads what there is; what is damaged is as if it had never been.
func readLast(file string) last {
	l := make(last)
	b, err := os.ReadFile(file)
	if err != nil {
		return l
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		f := strings.SplitN(s.Text(), " ", 4)
		if len(f) != 4 {
			continue
		}
		since, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			continue
		}
		l[f[3]] = lastAction{f[0], strings.TrimPrefix(f[1], "-"), since}
	}
	return l
}

// rememberLast notes the actions of a build. Where several nodes have one name,
// none is noted: they would be taken for each other.
func (w *workspace) rememberLast(r *graph.Result, of string, now time.Time) {
	l := readLast(w.lastFile())
	changed := false
	named := make(map[string]int)
	for n := range r.Actions {
		named[n.Name]++
	}
	for n, a := range r.Actions {
		name := of + " " + n.Name
		was := l[name]
		if n.Fixed != nil || a.IsZero() || was.action == a.Hex() || named[n.Name] > 1 || strings.Contains(name, "\n") {
			continue
		}
		l[name], changed = lastAction{a.Hex(), was.action, now.UnixNano()}, true
	}
	if !changed {
		return
	}
	var b bytes.Buffer
	for name, a := range l {
		before := a.before
		if before == "" {
			before = "-"
		}
		fmt.Fprintf(&b, "%s %s %d %s\n", a.action, before, a.since, name)
	}
	tmp := filepath.Join(w.scratch.Dir(), "last")
	if os.WriteFile(tmp, b.Bytes(), 0o644) == nil {
		os.Rename(tmp, w.lastFile())
	}
}
