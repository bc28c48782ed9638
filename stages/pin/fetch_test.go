// This file tests the addresses of pinned packages.

package pin

import (
	"fmt"
	"testing"

	"meros/constellations"
)

// The address depends on the architecture, even if a machine of another
// architecture asked before.
func TestMirrorsOfArchitectures(t *testing.T) {
	ms := NewMirrors()
	for _, c := range []struct{ arch, url string }{
		{"x86_64", "http://archive.ubuntu.com/ubuntu/pool/x.deb"}, {"aarch64", "http://ports.ubuntu.com/ubuntu-ports/pool/x.deb"},
	} {
		got := ms.URLs(&constellations.SectionLock{Distribution: "ubuntu", Suite: "noble", Arch: c.arch}, constellations.Package{Archive: "ubuntu", Filename: "pool/x.deb"})
		if fmt.Sprint(got) != "["+c.url+"]" {
			t.Errorf("%s: %v", c.arch, got)
		}
	}
}
