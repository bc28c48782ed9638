// Package bench measures what meros promises, always against a peer or a
// limit measured in the same run: "just bench". The numbers are ratios first;
// seconds are this machine's.
package bench

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"meros/bench/lab"
)

func TestMain(m *testing.M) {
	code := m.Run()
	lab.Close()
	os.Exit(code)
}

// project has n machines in the constellation "lab" and all packages, and
// nothing is built.
func project(b *testing.B, n int) *lab.Project {
	b.Helper()
	lab.NeedRoot(b) // the peers do
	p := lab.Downloaded(b, "lab")
	var s strings.Builder
	s.WriteString("virtual_machines:\n")
	for i := range n {
		fmt.Fprintf(&s, "  m%d: {suite: bookworm, packages: %s}\n", i, lab.Packages)
	}
	p.Write(b, "constellations/lab/manifest.yml", s.String())
	return p
}

// samples are the measurements of a benchmark's runs.
type samples map[string][]float64

func (s samples) add(unit string, value float64) { s[unit] = append(s[unit], value) }

// report gives the median of each unit.
func (s samples) report(b *testing.B) {
	for unit, values := range s {
		slices.Sort(values)
		b.ReportMetric(values[len(values)/2], unit)
	}
}
