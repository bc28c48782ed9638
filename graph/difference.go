package graph

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Difference is a line of two key texts that differs.
type Difference struct {
	Name   string `json:"name"`             // of a parameter, a file, an input
	Before string `json:"before,omitempty"` // "" if it is not in the first
	After  string `json:"after,omitempty"`  // "" if it is not in the second
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

// Label is what an input is called: a name and, if it has one, the version that
// tells it from others of that name; of one that has none, the digest does.
type Label struct{ Name, Version string }

// Differences are what two key texts do not have in common, in the order of the
// second, and then what only the first has. Digests are cut. called tells of
// inputs what they are, by their digests; it need not know all.
func Differences(before, after []byte, called map[string]Label) []Difference {
	was, now := keyLines(before), keyLines(after)
	all := inputDifferences(&was, &now, called)
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

// keyLine is a line of a key text, with a name that no other has.
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

// inputMark begins the name of an input's line: those of a list have one name.
const inputMark = "input "

// InputDigests are those of the inputs of a key text, in the order in which its
// node has them.
func InputDigests(text []byte) []string {
	var all []string
	for _, l := range keyLines(text) {
		if strings.HasPrefix(l.name, inputMark) {
			all = append(all, l.value)
		}
	}
	return all
}

// inputDifferences takes the inputs out of both and tells which differ. What
// both have counts for nothing, wherever it is in a list.
func inputDifferences(was, now *[]keyLine, called map[string]Label) []Difference {
	before, after := *was, *now
	gone, fresh := take(was, after), take(now, before)
	of := partners(fresh, gone, called)
	var all []Difference
	for i, l := range fresh {
		d, c := inputDifference(l, called)
		d.Before, d.After = "", d.Before
		if of[i] >= 0 {
			old, was := inputDifference(gone[of[i]], called)
			d.Before, gone[of[i]].name = old.Before, ""
			if was.Version != "" && was == c { // it was made again
				d = Difference{c.Name + " " + c.Version, short(gone[of[i]].value), short(l.value)}
			}
		}
		all = append(all, d)
	}
	for _, l := range gone {
		if l.name != "" {
			d, _ := inputDifference(l, called)
			all = append(all, d)
		}
	}
	return all
}

// inputDifference tells of an input as of one that is gone.
func inputDifference(l keyLine, called map[string]Label) (Difference, Label) {
	c := called[l.value]
	return Difference{Name: cmp.Or(c.Name, l.name), Before: cmp.Or(c.Version, short(l.value))}, c
}

// partners finds, for each of the fresh inputs, the place of the one that is gone
// and that it stands for, or -1: the one of its name in its list. What has no
// version may be called by what is in it; what is left of that is told in pairs,
// if it is as much in both.
func partners(fresh, gone []keyLine, called map[string]Label) []int {
	of := slices.Repeat([]int{-1}, len(fresh))
	taken := make(map[int]bool)
	for i, l := range fresh {
		for k, g := range gone {
			if name := called[l.value].Name; name != "" && !taken[k] && g.name == l.name && called[g.value].Name == name {
				of[i], taken[k] = k, true
				break
			}
		}
	}
	left := func(lines []keyLine, told func(int) bool) map[string][]int {
		places := make(map[string][]int)
		for i, l := range lines {
			if !told(i) && called[l.value].Version == "" {
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

// take removes the inputs from lines, and returns those that others lack.
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

// dropWholes leaves out the digest of what is listed file by file.
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

// cutQuoted cuts what [quote] made off the beginning of s.
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

// difference cuts what is long and the same: digests to 8 digits, and of lists
// the words that both have.
func difference(name, before, after string) Difference {
	was, now := strings.Fields(before), strings.Fields(after)
	if len(was) > 0 && len(now) > 0 && len(was)+len(now) > 2 {
		before, after = uncommon(was, now), uncommon(now, was)
		if word, _, _ := strings.Cut(before, " "); isLabel(word) && strings.Count(before, " ") == 1 {
			after = strings.TrimPrefix(after, word+" ")
		}
	}
	return Difference{name, short(before), short(after)}
}

// uncommon are the words of a that b does not have, or all of them.
func uncommon(a, b []string) string {
	have := make(map[string]bool)
	for _, w := range b {
		have[w] = true
	}
	var out []string
	for i, w := range a {
		if !have[w] {
			if i > 0 && have[a[i-1]] && isLabel(a[i-1]) {
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

// isLabel tells whether a word of a file's line names what follows it.
func isLabel(word string) bool {
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
