package constellations

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// The document has every key that a manifest can have, and no key is read
// that it does not have.
func TestEveryKeyIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	// An unknown key far from all others is answered with those that there are.
	_, err = Parse("x", "manifest.yml", []byte(`
qqqqqqqqqqqqqqqq: 1
bridges: {b: {qqqqqqqqqqqqqqqq: 1}}
virtual_machines:
  m:
    qqqqqqqqqqqqqqqq: 1
    hooks: {qqqqqqqqqqqqqqqq: 1}
    kernel: {qqqqqqqqqqqqqqqq: 1}
    disks: [{label: d, qqqqqqqqqqqqqqqq: 1}]
    networks: [{label: n, bridge: b, qqqqqqqqqqqqqqqq: 1}]
`))
	var errs *Errors
	if !errors.As(err, &errs) || len(errs.Problems) != 7 {
		t.Fatalf("%v", err)
	}
	keys := 0
	for _, p := range errs.Problems {
		for key := range strings.SplitSeq(strings.TrimPrefix(p.Hint, "known here: "), ", ") {
			keys++
			if !strings.Contains(string(doc), "`"+key+"`") && !strings.Contains(string(doc), "`{"+key+":") {
				t.Errorf("%s (%s) is not documented", key, p.Message)
			}
		}
	}
	if keys < 49 {
		t.Errorf("only %d keys were found", keys)
	}
}
