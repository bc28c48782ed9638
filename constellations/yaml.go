// This file reads values out of a YAML document and reports values of a wrong type.
// It does not know which keys a manifest has.

package constellations

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxFile is the largest size of a manifest in bytes. Ten thousand machines take
// 2 MB.
const maxFile = 8 << 20

// maxVisits is the most visits of nodes, so that aliases of aliases cannot make a
// small file large.
const maxVisits = 2_000_000

// document is a YAML file being read. If a value has a wrong type, its reader
// records the mistake and returns the zero value.
type document struct {
	*problems
	anchors map[string]ast.Node
	visits  int
}

// place is the position where a node begins, from 1.
type place struct{ line, column int }

func placeOf(n ast.Node) place {
	var t *token.Token
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return placeOf(n.Values[0].Key)
		}
		t = n.Start
	case *ast.MappingValueNode:
		return placeOf(n.Key)
	case *ast.SequenceNode:
		t = n.Start
	case nil:
		return place{}
	default:
		t = n.GetToken()
	}
	if t == nil || t.Position == nil {
		return place{}
	}
	return place{t.Position.Line, t.Position.Column}
}

func (d *document) addAt(p place, hint, format string, a ...any) {
	d.add(p.line, p.column, hint, format, a...)
}

// parseDocument reads the one document of a file.
func parseDocument(ps *problems, src []byte) (*document, ast.Node) {
	d := &document{problems: ps, anchors: make(map[string]ast.Node)}
	if len(src) > maxFile {
		d.add(0, 0, "", "the file has %d bytes, more than the limit of %d", len(src), maxFile)
		return d, nil
	}
	file, err := parser.ParseBytes(src, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return d, nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			d.addAt(placeOf(doc.Body), "a manifest is one document", "unexpected second YAML document")
			return d, nil
		}
		body = doc.Body
	}
	return d, body
}

func (d *document) syntax(err error) {
	var ye yaml.Error
	if !errors.As(err, &ye) || ye.GetToken() == nil || ye.GetToken().Position == nil {
		d.add(0, 0, "", "%s", strings.SplitN(err.Error(), "\n", 2)[0])
		return
	}
	p := ye.GetToken().Position
	hint := ""
	if p.Line <= len(d.lines) && strings.Contains(d.lines[p.Line-1], "\t") {
		hint = "YAML is indented with spaces, not tabs"
	}
	d.add(p.Line, p.Column, hint, "%s", ye.GetMessage())
}

// resolve follows anchors, aliases and tags.
func (d *document) resolve(n ast.Node) ast.Node {
	for {
		if d.visits++; d.visits > maxVisits {
			if d.visits == maxVisits+1 {
				d.addAt(placeOf(n), "", "the aliases of this file expand to too many values")
			}
			return nil
		}
		switch x := n.(type) {
		case *ast.AnchorNode:
			d.anchors[x.Name.GetToken().Value] = x.Value
			n = x.Value
		case *ast.AliasNode:
			name := x.Value.GetToken().Value
			v, ok := d.anchors[name]
			if !ok {
				d.addAt(placeOf(x.Value), "", "there is no anchor &%s before this alias", name)
				return nil
			}
			n = v
		case *ast.TagNode:
			n = x.Value
		default:
			return n
		}
	}
}

// pair is an entry of a mapping.
type pair struct {
	key   string
	at    place
	value ast.Node
}

// mapping returns the entries of n, then those of merge keys (<<) whose names n
// lacks. ok reports whether n is a mapping or null.
func (d *document) mapping(n ast.Node, what string) (ps []pair, ok bool) {
	at := placeOf(n)
	var values []*ast.MappingValueNode
	switch x := d.resolve(n).(type) {
	case *ast.MappingNode:
		values = x.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{x}
	case *ast.NullNode:
		return nil, true
	case nil:
		return nil, false
	default:
		d.addAt(at, "", "%s must be a mapping (key: value), not %s", what, typeName(x))
		return nil, false
	}
	seen := make(map[string]place)
	var merged []pair
	for _, v := range values {
		if _, is := v.Key.(*ast.MergeKeyNode); is {
			more, _ := d.mapping(v.Value, "the value of <<")
			merged = append(merged, more...)
			continue
		}
		key, at := v.Key.GetToken().Value, placeOf(v.Key)
		if before, dup := seen[key]; dup {
			d.addAt(at, "", "duplicate key %q, first in line %d", key, before.line)
			continue
		}
		seen[key] = at
		ps = append(ps, pair{key, at, v.Value})
	}
	for _, p := range merged {
		if _, own := seen[p.key]; !own {
			seen[p.key] = p.at
			ps = append(ps, p)
		}
	}
	return ps, true
}

// fields reads a mapping with the readers in known, by key.
func (d *document) fields(n ast.Node, what string, known map[string]func(ast.Node)) {
	ps, _ := d.mapping(n, what)
	for _, p := range ps {
		read, ok := known[p.key]
		if !ok {
			keys := make([]string, 0, len(known))
			for k := range known {
				keys = append(keys, k)
			}
			slices.Sort(keys)
			hint := "known here: " + strings.Join(keys, ", ")
			if near := Nearest(p.key, keys); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			d.addAt(p.at, hint, "unknown key %q in %s", p.key, what)
			continue
		}
		read(p.value)
	}
}

// sequence returns the elements of a list. A single value counts as a list of one.
func (d *document) sequence(n ast.Node) []ast.Node {
	switch x := d.resolve(n).(type) {
	case *ast.SequenceNode:
		return x.Values
	case *ast.NullNode, nil:
		return nil
	default:
		return []ast.Node{x}
	}
}

// text returns a string. A number counts as its text.
func (d *document) text(n ast.Node) string {
	switch x := d.resolve(n).(type) {
	case *ast.StringNode:
		return x.Value
	case *ast.LiteralNode:
		return x.Value.Value
	case *ast.IntegerNode, *ast.FloatNode:
		return x.GetToken().Value
	case *ast.NullNode, nil:
		return ""
	default:
		d.addAt(placeOf(n), "", "the value must be a string, not %s", typeName(x))
		return ""
	}
}

// integer returns a whole number between low and high.
func (d *document) integer(n ast.Node, low, high int64) int64 {
	x := d.resolve(n)
	if x == nil {
		return low
	}
	v, err := strconv.ParseInt(x.GetToken().Value, 0, 64)
	if _, isInt := x.(*ast.IntegerNode); err != nil || !isInt && !isString(x) {
		d.addAt(placeOf(n), "", "the value must be a whole number, not %s", typeName(x))
		return low
	}
	if v < low || v > high {
		d.addAt(placeOf(n), "", "%d is out of range, from %d to %d", v, low, high)
		return low
	}
	return v
}

func isString(n ast.Node) bool { _, ok := n.(*ast.StringNode); return ok }

// boolean returns true or false, also in the spellings of YAML 1.1.
func (d *document) boolean(n ast.Node) bool {
	x := d.resolve(n)
	switch x := x.(type) {
	case *ast.BoolNode:
		return x.Value
	case *ast.StringNode:
		switch strings.ToLower(x.Value) {
		case "yes", "on", "true":
			return true
		case "no", "off", "false":
			return false
		}
	case nil:
		return false
	}
	d.addAt(placeOf(n), "write true or false", "the value must be true or false, not %s", typeName(x))
	return false
}

// word returns a string that must be one of known.
func (d *document) word(n ast.Node, what string, known ...string) string {
	s := d.text(n)
	if slices.Contains(known, s) {
		return s
	}
	hint := "known values: " + strings.Join(known, ", ")
	if near := Nearest(s, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	d.addAt(placeOf(n), hint, "unknown %s %q", what, s)
	return known[0]
}

// size returns a number of bytes, written as "2G", "512M", or a plain number of
// units.
func (d *document) size(n ast.Node, unit, low, high int64) int64 {
	s := strings.TrimSpace(d.text(n))
	v, err := ParseSize(s, unit)
	switch {
	case err != nil:
		d.addAt(placeOf(n), "write it as 2G, 512M, or a plain number", "%q is not a size", s)
		return low
	case v < low || v > high:
		d.addAt(placeOf(n), "", "%s is out of range, from %s to %s", s, sizeText(low), sizeText(high))
		return low
	}
	return v
}

// ParseSize parses a size and returns it in bytes: a number and K, M, G or T, which
// are powers of 1024 as in QEMU. A plain number counts units.
func ParseSize(s string, unit int64) (int64, error) {
	number := strings.TrimRight(s, "kKmMgGtTiIbB")
	suffix := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s[len(number):]), "B"), "I")
	factors := map[string]int64{"": unit, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
	factor, ok := factors[suffix]
	if strings.HasSuffix(strings.ToUpper(s), "B") && suffix == "" {
		factor = 1
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || !ok || f < 0 || math.IsNaN(f) || f*float64(factor) > 1<<60 || strings.ContainsAny(number, "xXpP_") {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	return int64(f * float64(factor)), nil
}

func sizeText(n int64) string {
	for _, u := range []struct {
		unit int64
		name string
	}{{1 << 40, "T"}, {1 << 30, "G"}, {1 << 20, "M"}} {
		if n >= u.unit && n%u.unit == 0 {
			return fmt.Sprintf("%d%s", n/u.unit, u.name)
		}
	}
	return strconv.FormatInt(n, 10)
}

func typeName(n ast.Node) string {
	switch x := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode, nil:
		return "nothing"
	case *ast.BoolNode:
		return fmt.Sprintf("the truth value %v", x.Value)
	default:
		return fmt.Sprintf("%q", x.GetToken().Value)
	}
}
