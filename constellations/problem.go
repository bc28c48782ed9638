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
	Line    int // from 1; 0 is the file as a whole
	Column  int // from 1, in characters
	Message string
	Hint    string
	Source  string // the line itself
}

// Errors are all the mistakes of one file.
type Errors struct{ Problems []Problem }

// Error renders each mistake with its line and a caret below the place.
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
	if p.Line == 0 {
		fmt.Fprintf(b, "%s: %s", p.File, p.Message)
	} else {
		fmt.Fprintf(b, "%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
		if p.Source != "" {
			gutter := fmt.Sprintf("%5d | ", p.Line)
			fmt.Fprintf(b, "\n%s%s\n%s| %s^", gutter, p.Source, strings.Repeat(" ", len(gutter)-2), pad(p.Source, p.Column-1))
		}
	}
	if p.Hint != "" {
		fmt.Fprintf(b, "\nhint: %s", p.Hint)
	}
}

// pad is as wide as the first n characters of line, tabs kept.
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

// problems collects the mistakes of a file while it is read.
type problems struct {
	file  string
	lines []string
	list  []Problem
}

// maxProblems is how many mistakes of a file are told.
const maxProblems = 50

// maxSource is how much of a line is shown.
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
	if !slices.Contains(ps.list, p) { // an alias is read wherever it is used
		ps.list = append(ps.list, p)
	}
}

// err is all that was collected, in the file's order.
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

// Nearest is the word of known that name was probably meant to be, or "".
func Nearest(name string, known []string) string {
	best, at := "", max(len(name)/3, 1)+1
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < at {
			best, at = k, d
		}
	}
	return best
}

// distance is the number of inserted, removed, replaced or swapped characters
// between a and b (optimal string alignment).
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
