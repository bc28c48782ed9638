// This file compares two key texts, for `meros why`.

package graph

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Difference is one difference between two key texts.
type Difference struct {
	Name   string `json:"name"`             // of a parameter, a file or an input
	Before string `json:"before,omitempty"` // "" if the first text does not have it
	After  string `json:"after,omitempty"`  // "" if the second text does not have it
}

func (d Difference) String() string {
	switch {
	case d.Before == "":
		return fmt.Sprintf("%s: new (%s)", d.Name, d.After)
	case d.After == "":
		return fmt.Sprintf("%s: gone (%s)", d.Name, d.Before)
	}
	return fmt.Sprintf("%s: %s -> %s", d.Name, d.Before, d.After)
}

// Label names an input for people, such as a package and its version. Inputs of one name
// differ by their versions. If an input has no version, its digest stands for it.
type Label struct{ Name, Version string }

// Differences returns the differences between two key texts. Those of the inputs come
// first. The others follow in the order of the second text, and last those that only the
// first text has. Digests are shortened. labels has labels of inputs, by their digests. It need not
// have all.
func Differences(before, after []byte, labels map[string]Label) []Difference {
	was, now := keyLines(before), keyLines(after)
	all := inputDifferences(&was, &now, labels)
	values := make(map[string]string)
	for _, l := range was {
		values[l.name] = l.value
	}
	seen := make(map[string]bool)
	for _, l := range now {
		seen[l.name] = true
		if old, ok := values[l.name]; !ok || old != l.value {
			all = append(all, difference(l.name, old, l.value))
		}
	}
	for _, l := range was {
		if !seen[l.name] {
			all = append(all, difference(l.name, l.value, ""))
		}
	}
	return all
}

// keyLine is a line of a key text. Its name is unique, except for inputs.
type keyLine struct{ name, value string }

func keyLines(text []byte) []keyLine {
	var lines []keyLine
	count := make(map[string]int)
	add := func(name, value string) {
		if count[name]++; count[name] > 1 {
			name += " (" + strconv.Itoa(count[name]) + ")"
		}
		lines = append(lines, keyLine{name, value})
	}
	for line := range strings.Lines(string(text)) {
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch word {
		case "local":
			name, value := cutQuoted(rest)
			if entry, more := cutQuoted(value); more != "" && entry != "content" {
				name, value = name+"/"+strings.TrimPrefix(entry, "./"), more
			}
			if strings.HasPrefix(value, "sha256:") {
				name += " as a whole"
			}
			add(strings.TrimSuffix(name, "/."), value)
		case "param":
			name, value := cutQuoted(rest)
			add(name, unquoted(value))
		case "input":
			name, value := cutQuoted(rest)
			lines = append(lines, keyLine{inputMark + name, value})
		case "output":
			name, value := cutQuoted(rest)
			add("output "+name, value)
		default:
			add(word, rest)
		}
	}
	return dropWholes(lines)
}

// inputMark begins the name of an input's line. The inputs of a list share one name.
const inputMark = "input "

// InputDigests returns the digests of the inputs in a key text, in the order of the
// node's inputs.
func InputDigests(text []byte) []string {
	var all []string
	for _, l := range keyLines(text) {
		if strings.HasPrefix(l.name, inputMark) {
			all = append(all, l.value)
		}
	}
	return all
}

// inputDifferences removes the inputs from both texts and returns their differences. It
// ignores the inputs that both have, even if their places in a list differ.
func inputDifferences(was, now *[]keyLine, labels map[string]Label) []Difference {
	before, after := *was, *now
	gone, fresh := take(was, after), take(now, before)
	of := partners(fresh, gone, labels)
	var all []Difference
	for i, l := range fresh {
		d, c := inputDifference(l, labels)
		d.Before, d.After = "", d.Before
		if of[i] >= 0 {
			old, was := inputDifference(gone[of[i]], labels)
			d.Before, gone[of[i]].name = old.Before, ""
			if was.Version != "" && was == c { // the same version, rebuilt
				d = Difference{c.Name + " " + c.Version, short(gone[of[i]].value), short(l.value)}
			}
		}
		all = append(all, d)
	}
	for _, l := range gone {
		if l.name != "" {
			d, _ := inputDifference(l, labels)
			all = append(all, d)
		}
	}
	return all
}

// inputDifference returns the difference for an input that only the first text has, and
// the input's label.
func inputDifference(l keyLine, labels map[string]Label) (Difference, Label) {
	c := labels[l.value]
	return Difference{Name: cmp.Or(c.Name, l.name), Before: cmp.Or(c.Version, short(l.value))}, c
}

// partners returns, for each fresh input, the index of the gone input that it replaces,
// or -1. That is the one with the same label in the same list. The name of an input
// without a version may come from its content, so such names may differ. Their inputs
// are paired in order, if both texts have the same number of them.
func partners(fresh, gone []keyLine, labels map[string]Label) []int {
	of := slices.Repeat([]int{-1}, len(fresh))
	taken := make(map[int]bool)
	for i, l := range fresh {
		for k, g := range gone {
			if name := labels[l.value].Name; name != "" && !taken[k] && g.name == l.name && labels[g.value].Name == name {
				of[i], taken[k] = k, true
				break
			}
		}
	}
	left := func(lines []keyLine, paired func(int) bool) map[string][]int {
		places := make(map[string][]int)
		for i, l := range lines {
			if !paired(i) && labels[l.value].Version == "" {
				places[l.name] = append(places[l.name], i)
			}
		}
		return places
	}
	others := left(gone, func(k int) bool { return taken[k] })
	for list, places := range left(fresh, func(i int) bool { return of[i] >= 0 }) {
		if len(places) == len(others[list]) {
			for n, i := range places {
				of[i] = others[list][n]
			}
		}
	}
	return of
}

// take removes the inputs from lines, and returns those that others do not have.
func take(lines *[]keyLine, others []keyLine) []keyLine {
	have := make(map[keyLine]bool)
	for _, l := range others {
		have[l] = true
	}
	var rest, taken []keyLine
	for _, l := range *lines {
		switch {
		case !strings.HasPrefix(l.name, inputMark):
			rest = append(rest, l)
		case !have[l]:
			taken = append(taken, l)
		}
	}
	*lines = rest
	return taken
}

// dropWholes removes the digests of the trees that are listed file by file.
func dropWholes(lines []keyLine) []keyLine {
	var out []keyLine
	for i, l := range lines {
		name, whole := strings.CutSuffix(l.name, " as a whole")
		if whole && i+1 < len(lines) && (lines[i+1].name == name || strings.HasPrefix(lines[i+1].name, name+"/")) {
			continue
		}
		if whole {
			l.name = name
		}
		out = append(out, l)
	}
	return out
}

// cutQuoted splits s after its first word, which may be quoted by [quote]. It unquotes
// the word.
func cutQuoted(s string) (word, rest string) {
	if p, err := strconv.QuotedPrefix(s); err == nil && strings.HasPrefix(s, `"`) {
		return unquoted(p), strings.TrimPrefix(s[len(p):], " ")
	}
	word, rest, _ = strings.Cut(s, " ")
	return word, rest
}

func unquoted(s string) string {
	if u, err := strconv.Unquote(s); err == nil {
		return u
	}
	return s
}

// difference returns a short difference: it cuts digests to 8 digits, and removes the
// words that both values of a list have.
func difference(name, before, after string) Difference {
	was, now := strings.Fields(before), strings.Fields(after)
	if len(was) > 0 && len(now) > 0 && len(was)+len(now) > 2 {
		before, after = uncommon(was, now), uncommon(now, was)
		if word, _, _ := strings.Cut(before, " "); isFieldName(word) && strings.Count(before, " ") == 1 {
			after = strings.TrimPrefix(after, word+" ")
		}
	}
	return Difference{name, short(before), short(after)}
}

// uncommon returns the words of a that b does not have, or "(nothing)".
func uncommon(a, b []string) string {
	have := make(map[string]bool)
	for _, w := range b {
		have[w] = true
	}
	var out []string
	for i, w := range a {
		if !have[w] {
			if i > 0 && have[a[i-1]] && isFieldName(a[i-1]) {
				out = append(out, a[i-1])
			}
			out = append(out, w)
		}
	}
	if len(out) == 0 {
		return "(nothing)"
	}
	return strings.Join(out, " ")
}

// isFieldName reports whether a word in the line of a file names the word after it.
func isFieldName(word string) bool {
	return slices.Contains([]string{"content", "mode", "to", "xattr", "link"}, word)
}

func short(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		hex := strings.TrimPrefix(w, "sha256:")
		if len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == "" {
			words[i] = hex[:8]
		}
	}
	text := strings.Join(words, " ")
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return text
}
