// This file tests the doctor as an ordinary user.

package main

import (
	"strings"
	"testing"

	"meros/bench/lab"
)

// TestDoctorAsUser checks that the doctor reports missing subordinate ids and how
// to add them. For a user who has them it must report a working sandbox.
func TestDoctorAsUser(t *testing.T) {
	lab.NeedRoot(t)
	p := lab.New(t, map[string]string{"constellations/lab/manifest.yml": plain})
	o := lab.Finish(t, p.AsUser(t, lab.UserOptions{NoSubIDs: true}, p.Command(t, "doctor")))
	if o.Exit != 1 || !strings.Contains(o.Stdout, "broken   sandbox") || !strings.Contains(o.Stdout, "usermod --add-subuids") {
		t.Errorf("exit status %d\n%s%s", o.Exit, o.Stdout, o.Stderr)
	}
	o = lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, "doctor")))
	if o.Exit != 0 || !strings.Contains(o.Stdout, "ok       sandbox") {
		t.Errorf("exit status %d\n%s%s", o.Exit, o.Stdout, o.Stderr)
	}
}
