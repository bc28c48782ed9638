package graph

import (
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

// Differences are what two key texts do not have in common, in the order of the
// second, and then what only the first has. Digests are cut. n, if it is not
// nil, is the node of the second, and names what its inputs are.
func Differences(before, after []byte, n *Node) []Difference {
	was, now := keyLines(before), keyLines(after)
	all := inputDifferences(&was, &now, n)
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

// inputDifferences takes the inputs out of both and tells which differ. What
// both have counts for nothing, wherever it is in a list; what remains of a
// list is told in pairs, if it is as much in both.
func inputDifferences(was, now *[]keyLine, n *Node) []Difference {
	names := make(map[keyLine]string)
	i := 0
	for _, l := range *now {
		if strings.HasPrefix(l.name, inputMark) {
			if n != nil && i < len(n.Inputs) {
				names[l] = n.Inputs[i].Node.Name
			}
			i++
		}
	}
	before, after := *was, *now
	gone, fresh := take(was, after), take(now, before)
	var all []Difference
	for _, l := range fresh {
		d := Difference{Name: l.name, After: short(l.value)}
		if name := names[l]; name != "" {
			d.Name = name
		}
		if count(fresh, l.name) == count(gone, l.name) {
			k := slices.IndexFunc(gone, func(g keyLine) bool { return g.name == l.name && g.value != "" })
			d.Before, gone[k].value = short(gone[k].value), ""
		}
		all = append(all, d)
	}
	for _, l := range gone {
		if l.value != "" {
			all = append(all, Difference{Name: l.name, Before: short(l.value)})
		}
	}
	return all
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

// count is how many were taken under a name, told ones included.
func count(lines []keyLine, name string) (n int) {
	for _, l := range lines {
		if l.name == name {
			n++
		}
	}
	return n
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
