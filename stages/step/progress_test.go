// This test watches the output of package managers.

package step

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"meros/graph"
)

// Lines pass through unchanged, however they are cut, and show the progress.
func TestWatchPackages(t *testing.T) {
	text := "Unpacking a (1) ...\nsomething\nSetting up a (1) ...\n(3/4) Installing musl\n" + strings.Repeat("x", maxLogLine+10) + "\nno end"
	for _, size := range []int{1, 7, 1 << 20} {
		var out bytes.Buffer
		s := &step{log: &out}
		s.Step = graph.Step{}
		w := s.watchPackages(4)
		var told []string
		w.report = func(done, total int64) { told = append(told, fmt.Sprint(done, "/", total)) }
		for rest := []byte(text); len(rest) > 0; {
			n := min(size, len(rest))
			if k, err := s.log.Write(rest[:n]); k != n || err != nil {
				t.Fatal(k, err)
			}
			rest = rest[n:]
		}
		w.flush()
		if out.String() != text {
			t.Errorf("by %d bytes: %d bytes became %d", size, len(text), out.Len())
		}
		if got := strings.Join(told, " "); got != "1/4 2/4 3/4" {
			t.Errorf("by %d bytes: %s", size, got)
		}
	}
}
