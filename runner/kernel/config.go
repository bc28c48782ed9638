// Package kernel knows how the Linux kernel is configured and compiled: its
// configuration files, its Kconfig language, what a source is made of, and
// what make says.
package kernel

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// Config is a kernel configuration: values by option, without CONFIG_. An
// option that is off is not in it.
type Config map[string]string

// maxLine bounds a line of a configuration; CONFIG_CMDLINE may have 2,048.
const maxLine = 1 << 20

// ReadConfig reads a .config.
func ReadConfig(r io.Reader) (Config, error) {
	c := make(Config)
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		if name, value, ok := parseOption(s.Text()); ok && value != "n" {
			c[name] = value
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read a kernel configuration: %w", err)
	}
	return c, nil
}

// ReadConfigFile reads the .config named file.
func ReadConfigFile(file string) (Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadConfig(f)
}

// Value is the option's value, "n" if it is off.
func (c Config) Value(name string) string {
	if v, ok := c[name]; ok {
		return v
	}
	return "n"
}

// Change is an option that two configurations differ in.
type Change struct{ Name, From, To string }

func (c Change) String() string { return fmt.Sprintf("CONFIG_%s: %s -> %s", c.Name, c.From, c.To) }

// Diff lists what changes from a to b, by name.
func Diff(a, b Config) []Change {
	var changes []Change
	for name := range a {
		if b.Value(name) != a[name] {
			changes = append(changes, Change{name, a[name], b.Value(name)})
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			changes = append(changes, Change{name, "n", b[name]})
		}
	}
	slices.SortFunc(changes, func(x, y Change) int { return strings.Compare(x.Name, y.Name) })
	return changes
}

// Refusal is an option that did not take the value that was asked for.
type Refusal struct {
	Name, Want, Got string
	Unknown         bool     // no Kconfig file has it
	Why             []string // what keeps it, a line each
}

// Check compares what was asked for with what the kernel's own configuration
// program made of it. s may be nil: then no reasons are given.
func Check(want, got Config, s *Symbols) []Refusal {
	var all []Refusal
	for name, value := range want {
		if got.Value(name) == value || sameNumber(got.Value(name), value) {
			continue
		}
		r := Refusal{Name: name, Want: value, Got: got.Value(name)}
		if s != nil {
			r.Unknown = !s.Has(name)
			r.Why = s.Explain(name, value, got)
		}
		if r.Unknown && value == "n" {
			continue // what does not exist is off
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(x, y Refusal) int { return strings.Compare(x.Name, y.Name) })
	return all
}

// sameNumber tells that 0x10 and 0X10 are one value.
func sameNumber(a, b string) bool {
	return strings.HasPrefix(strings.ToLower(a), "0x") && strings.EqualFold(a, b)
}

// ReadWanted reads what is asked for: like a .config, but an option that is
// said to be off is in the result, as "n".
func ReadWanted(r io.Reader) (Config, error) {
	c := make(Config)
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		if name, value, ok := parseOption(s.Text()); ok {
			c[name] = value
		}
	}
	return c, s.Err()
}

// parseOption reads "CONFIG_X=value" and "# CONFIG_X is not set".
func parseOption(line string) (name, value string, ok bool) {
	line = strings.TrimSpace(line)
	if rest, off := strings.CutPrefix(line, "# CONFIG_"); off {
		name, off = strings.CutSuffix(rest, " is not set")
		return name, "n", off
	}
	rest, ok := strings.CutPrefix(line, "CONFIG_")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "=")
}

// SetOptions changes options in the .config named file, in the order of their
// names.
func SetOptions(file string, want Config) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		if name, _, ok := parseOption(line); ok {
			if _, replaced := want[name]; replaced {
				continue
			}
		}
		out.WriteString(line)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if want[name] == "n" {
			fmt.Fprintf(&out, "# CONFIG_%s is not set\n", name)
		} else {
			fmt.Fprintf(&out, "CONFIG_%s=%s\n", name, want[name])
		}
	}
	return os.WriteFile(file, []byte(out.String()), 0o644)
}
