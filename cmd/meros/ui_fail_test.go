// This file tests how the user interface prints errors.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"meros/constellations"
	"meros/runner/hint"
)

// TestFailJSON checks that errors that are joined are printed one by one, and that
// a manifest's problems keep their hints and the text around them.
func TestFailJSON(t *testing.T) {
	manifest := func(file string) error {
		return &constellations.Errors{Problems: []constellations.Problem{{File: file, Line: 2, Column: 1, Message: "unknown key", Hint: "did you mean memory?"}}}
	}
	err := errors.Join(manifest("a.yml"), fmt.Errorf("import b: %w", manifest("b.yml")), hint.Add(errors.New("there are two manifests"), "remove one"))
	var out bytes.Buffer
	newUI(io.Discard, &out, "json", false).fail(usageError{err})
	want := `{"event":"error","text":"a.yml:2:1: unknown key","hint":"did you mean memory?"}
{"event":"error","text":"import b: b.yml:2:1: unknown key","hint":"did you mean memory?"}
{"event":"error","text":"there are two manifests","hint":"remove one"}
`
	if out.String() != want {
		t.Errorf("printed\n%swant\n%s", out.String(), want)
	}
}
