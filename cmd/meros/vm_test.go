// This file tests which machines a start includes.

package main

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"meros/bench/lab"
	"meros/runner/vm"
)

// TestInitWithDependencies checks that the start of some machines includes the
// machines that they depend on.
func TestInitWithDependencies(t *testing.T) {
	p := lab.New(t, map[string]string{"constellations/shop/manifest.yml": `virtual_machines:
  web: {depends_on: [app]}
  app: {depends_on: [db]}
  db: {}
  mail: {}
`})
	for _, test := range []struct {
		request startRequest
		want    []string
	}{
		{startRequest{request: request{Machines: []string{"web"}}}, []string{"web", "app", "db"}},
		{startRequest{request: request{Machines: []string{"mail", "app", "db"}}}, []string{"mail", "app", "db"}},
		{startRequest{}, nil},
		{startRequest{request: request{Machines: []string{"web"}, Use: "old.qcow2"}}, []string{"web"}},
		{startRequest{request: request{Machines: []string{"web"}}, onRunning: vm.Restart}, []string{"web"}},
	} {
		var said bytes.Buffer
		e := &env{ctx: t.Context(), project: project{p.Root}, ui: newUI(io.Discard, &said, "plain", false)}
		test.request.Constellation = "shop"
		if err := test.request.withDependencies(e); err != nil || !slices.Equal(test.request.Machines, test.want) {
			t.Errorf("the machines are %q, want %q, error %v", test.request.Machines, test.want, err)
		}
		if noted := strings.Contains(said.String(), "starting it too"); noted != (len(test.want) == 3 && test.want[0] == "web") {
			t.Errorf("the note for %q is %q", test.want, said.String())
		}
	}
}
