// This file collects the mistakes of a file and prints them with their places.

package constellations

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Problem is one mistake in a file.
type Problem struct {
	File    string
	Line    int // from 1; 0 means the whole file
	Column  int // from 1, in characters
	Message string
	Hint    string // the next step, or ""
	Source  string // the line itself
}

// Place returns the file, line and column of the mistake.
func (p Problem) Place() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Text returns the mistake in one line, without its hint.
func (p Problem) Text() string { return p.Place() + ": " + p.Message }

// Errors are all the mistakes of one file.
type Errors struct{ Problems []Problem }

// Error returns each mistake with its line, a caret below the place, and its hint
// on a line of its own. Programs read the fields of [Problem] instead.
func (e *Errors) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		p.write(&b)
	}
	return b.String()
}

func (p Problem) write(b *strings.Builder) {
	b.WriteString(p.Text())
	if p.Line > 0 && p.Source != "" {
		gutter := fmt.Sprintf("%5d | ", p.Line)
		fmt.Fprintf(b, "\n%s%s\n%s| %s^", gutter, p.Source, strings.Repeat(" ", len(gutter)-2), pad(p.Source, p.Column-1))
	}
	if p.Hint != "" {
		fmt.Fprintf(b, "\nhint: %s", p.Hint)
	}
}

// pad returns white space as wide as the first n characters of line. It preserves
// tabs.
func pad(line string, n int) string {
	var b strings.Builder
	for _, r := range line {
		if n--; n < 0 {
			break
		}
		if r != '\t' {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}

// problems collects the mistakes of a file during reading.
type problems struct {
	file  string
	lines []string
	list  []Problem
}

// maxProblems is the most mistakes reported for one file.
const maxProblems = 50

// maxSource is the most characters shown of one line.
const maxSource = 200

func newProblems(file string, src []byte) *problems {
	return &problems{file: file, lines: strings.Split(string(src), "\n")}
}

func (ps *problems) add(line, column int, hint, format string, a ...any) {
	if len(ps.list) >= maxProblems {
		return
	}
	p := Problem{File: ps.file, Line: line, Column: max(column, 1), Message: fmt.Sprintf(format, a...), Hint: hint}
	if line >= 1 && line <= len(ps.lines) {
		p.Source = strings.ToValidUTF8(strings.TrimRight(ps.lines[line-1], "\r"), "\uFFFD")
		if r := []rune(p.Source); len(r) > maxSource {
			p.Source = string(r[:maxSource])
			p.Column = min(p.Column, maxSource)
		}
	}
	if !slices.Contains(ps.list, p) { // an alias is read at each use
		ps.list = append(ps.list, p)
	}
}

// err returns the collected mistakes in the file's order, or nil.
func (ps *problems) err() error {
	if len(ps.list) == 0 {
		return nil
	}
	sort.SliceStable(ps.list, func(i, j int) bool {
		a, b := ps.list[i], ps.list[j]
		return a.Line < b.Line || a.Line == b.Line && a.Column < b.Column
	})
	return &Errors{ps.list}
}

// Nearest returns the known word that is most similar to name, or "" if none is
// similar enough.
func Nearest(name string, known []string) string {
	best, at := "", max(len(name)/3, 1)+1
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < at {
			best, at = k, d
		}
	}
	return best
}

// distance returns the number of inserted, removed, replaced or swapped
// characters between a and b (optimal string alignment).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
