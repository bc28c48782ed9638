// Package bench measures the speed that meros promises; `just bench` runs it.
// Each benchmark also measures a peer or a limit in the same run. The ratio is
// the result; the seconds are valid on this machine only.
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

// project returns a project with n machines in the constellation "lab". All
// packages are downloaded, and nothing is built.
func project(b *testing.B, n int) *lab.Project {
	b.Helper()
	lab.NeedRoot(b) // for the peers
	p := lab.Downloaded(b, "lab")
	var s strings.Builder
	s.WriteString("virtual_machines:\n")
	for i := range n {
		fmt.Fprintf(&s, "  m%d: {suite: bookworm, packages: %s}\n", i, lab.Packages)
	}
	p.Write(b, "constellations/lab/manifest.yml", s.String())
	return p
}

// samples holds the measurements of a benchmark's runs, by unit.
type samples map[string][]float64

func (s samples) add(unit string, value float64) { s[unit] = append(s[unit], value) }

// report reports the median of each unit.
func (s samples) report(b *testing.B) {
	for unit, values := range s {
		slices.Sort(values)
		b.ReportMetric(values[len(values)/2], unit)
	}
}
