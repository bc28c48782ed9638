// Package kernel configures and compiles the Linux kernel. It reads and writes
// configuration files, reads the Kconfig language, imports sources and reads the
// output of make. It does not run make.
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

// Config is a kernel configuration: values by option, without CONFIG_. It omits
// options that are off.
type Config map[string]string

// maxLine bounds a line of a configuration, bytes. CONFIG_CMDLINE may have 2,048.
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
		return nil, fmt.Errorf("read kernel configuration: %w", err)
	}
	return c, nil
}

// ReadConfigFile reads a .config by its path.
func ReadConfigFile(file string) (Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadConfig(f)
}

// Value returns the option's value, "n" if it is off.
func (c Config) Value(name string) string {
	if v, ok := c[name]; ok {
		return v
	}
	return "n"
}

// Change is an option whose values in two configurations differ.
type Change struct{ Name, From, To string }

func (c Change) String() string { return fmt.Sprintf("CONFIG_%s: %s -> %s", c.Name, c.From, c.To) }

// Diff returns the changes from a to b, sorted by name.
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

// Refusal is an option that did not take the requested value.
type Refusal struct {
	Name, Want, Got string
	Unknown         bool     // no Kconfig file defines it
	Why             []string // the reasons, one a line
}

// Check compares the requested options with the result of the kernel's own
// configuration program. If s is nil, it gives no reasons.
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
			continue // an unknown option is off
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(x, y Refusal) int { return strings.Compare(x.Name, y.Name) })
	return all
}

// sameNumber reports whether both are the same hexadecimal number, such as 0x10 and
// 0X10.
func sameNumber(a, b string) bool {
	return strings.HasPrefix(strings.ToLower(a), "0x") && strings.EqualFold(a, b)
}

// ReadWanted reads requested options. Unlike [ReadConfig] it returns options that
// the file turns off, as "n".
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

// SetOptions changes options in the .config named file. It appends them, sorted by
// name.
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
