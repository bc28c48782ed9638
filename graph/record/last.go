// This file remembers the last action of each node, so that a preview can name
// the lines of a key text that changed since.

package record

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"meros/graph"
)

// Last holds the last action of each node. A key is the name of what was built, a
// space, and the name of the node.
type Last map[string]LastAction

// LastAction is the last action of a node, and the one before that.
type LastAction struct {
	Action, Before string // hexadecimal; Before is "" if there was none
	Since          int64  // nanoseconds since 1970, when the build ended that changed the action
}

// ReadLast reads the file. It leaves out damaged lines, and returns nothing if it
// cannot read the file.
func ReadLast(file string) Last {
	l := make(Last)
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
		l[f[3]] = LastAction{f[0], strings.TrimPrefix(f[1], "-"), since}
	}
	return l
}

// UpdateLast adds the actions of a build to the file, which it replaces through
// scratch. It leaves out nodes of which several have one name: a reader would
// confuse them.
func UpdateLast(file, scratch string, r *graph.Result, of string, now time.Time) {
	l := ReadLast(file)
	changed := false
	named := make(map[string]int)
	for n := range r.Actions {
		named[n.Name]++
	}
	for n, a := range r.Actions {
		name := of + " " + n.Name
		was := l[name]
		if n.Fixed != nil || a.IsZero() || was.Action == a.Hex() || named[n.Name] > 1 || strings.Contains(name, "\n") {
			continue
		}
		l[name], changed = LastAction{a.Hex(), was.Action, now.UnixNano()}, true
	}
	if !changed {
		return
	}
	var b bytes.Buffer
	for name, a := range l {
		fmt.Fprintf(&b, "%s %s %d %s\n", a.Action, cmp.Or(a.Before, "-"), a.Since, name)
	}
	tmp := filepath.Join(scratch, "last")
	if os.WriteFile(tmp, b.Bytes(), 0o644) == nil {
		os.Rename(tmp, file)
	}
}
