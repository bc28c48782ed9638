// This file reads fragments of a kernel configuration and merges them. It does not
// know which options a kernel has.

package constellations

import (
	"fmt"
	"regexp"
	"strings"
)

// Option is one line of a kernel configuration: an option and its value.
type Option struct {
	Name  string // without CONFIG_
	Value string // "y", "m", "n", a number, or a string with its quotes
	File  string // as in errors
	Line  int
}

// Place returns the file and line that set the option.
func (o Option) Place() string { return fmt.Sprintf("%s:%d", o.File, o.Line) }

// String returns the option as a line of .config.
func (o Option) String() string {
	if o.Value == "n" {
		return "# CONFIG_" + o.Name + " is not set"
	}
	return "CONFIG_" + o.Name + "=" + o.Value
}

var (
	optionSet   = regexp.MustCompile(`^CONFIG_([A-Za-z0-9_]+)=(.*)$`)
	optionUnset = regexp.MustCompile(`^# CONFIG_([A-Za-z0-9_]+) is not set$`)
	optionValue = regexp.MustCompile(`^(y|m|n|-?[0-9]+|0[xX][0-9a-fA-F]+|"([^"\\]|\\.)*")$`)
)

// maxOptions is the most options of a fragment. A distribution's kernel sets about
// 10,000.
const maxOptions = 100_000

// ParseFragment parses a fragment of a kernel configuration in the format of
// .config: "CONFIG_X=y", "# CONFIG_X is not set", comments and empty lines. Two
// different values for one option are a mistake. file is its name in errors and
// in the options' places.
func ParseFragment(file string, src []byte) ([]Option, error) {
	ps := newProblems(file, src)
	var options []Option
	seen := make(map[string]Option)
	for i, line := range ps.lines {
		o := Option{File: file, Line: i + 1}
		line = strings.TrimSpace(line)
		if m := optionSet.FindStringSubmatch(line); m != nil {
			o.Name, o.Value = m[1], strings.TrimSpace(m[2])
			if !optionValue.MatchString(o.Value) {
				ps.add(o.Line, len(m[1])+len("CONFIG_=")+1, "a value is y, m, n, a number, or a string in double quotes", "%q is not a value for CONFIG_%s", o.Value, o.Name)
				continue
			}
		} else if m := optionUnset.FindStringSubmatch(line); m != nil {
			o.Name, o.Value = m[1], "n"
		} else if line == "" || line[0] == '#' {
			continue
		} else {
			ps.add(o.Line, 1, "write CONFIG_NAME=y, or # CONFIG_NAME is not set", "not a kernel option")
			continue
		}
		if before, ok := seen[o.Name]; ok && before.Value != o.Value {
			ps.add(o.Line, 1, "", "CONFIG_%s is %s here, but %s in line %d", o.Name, o.Value, before.Value, before.Line)
			continue
		}
		if seen[o.Name] = o; len(options) == maxOptions {
			ps.add(o.Line, 1, "", "more than %d options", maxOptions)
			break
		}
		options = append(options, o)
	}
	return options, ps.err()
}

// MergeFragments returns the options of several fragments, by name. Two different
// values for one option are a mistake.
func MergeFragments(fragments ...[]Option) (map[string]Option, error) {
	merged := make(map[string]Option)
	ps := new(problems)
	for _, options := range fragments {
		for _, o := range options {
			if before, ok := merged[o.Name]; ok && before.Value != o.Value {
				ps.list = append(ps.list, Problem{File: o.File, Line: o.Line, Column: 1, Source: o.String(),
					Message: fmt.Sprintf("CONFIG_%s is %s here, but %s in %s", o.Name, o.Value, before.Value, before.Place())})
				continue
			}
			merged[o.Name] = o
		}
	}
	return merged, ps.err()
}
