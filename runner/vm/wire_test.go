// This file tests the messages between clients and supervisors.

package vm

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"meros/runner/hint"
	"meros/runner/network"
)

// A supervisor outlives the program that started it, so the names on the wire
// stay as they are.
func TestWireNames(t *testing.T) {
	for want, v := range map[string]any{
		`{"Version":2,"Op":"down","Machines":["m"],"Patience":1000000000}`: request{Version: wireVersion, Op: "down", Machines: []string{"m"}, Timeout: time.Second},
		`{"Version":2,"Op":"dial","Machines":["m"],"Port":22}`:             request{Version: wireVersion, Op: "dial", Machines: []string{"m"}, Port: 22},
		`{"Machine":"m","Down":{"Machine":"m","Way":"acpi","Took":5}}`:     response{Machine: "m", Down: &Down{Machine: "m", Method: "acpi", Took: 5}},
		`{"Proofs":[{"from":"a","to":"b","open":true,"reached":true}]}`:    response{Results: []network.Result{{Path: network.Path{From: "a", To: "b", Open: true}, Reached: true}}},
		`{"Done":true}`: lastResponse(nil),
		`{"Error":"no","Hint":"try again","Done":true}`:                                                          lastResponse(hint.Add(errors.New("no"), "try again")),
		`{"World":false,"HostPorts":null,"ICMP":false,"Allowed":null,"Egress":null,"Ingress":null,"Apart":true}`: network.Policy{Isolated: true},
	} {
		if got, err := json.Marshal(v); err != nil || string(got) != want {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
	}
	b, err := json.Marshal(Machine{OnRunning: Restart})
	var m map[string]any
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil || m["Again"] != "restart" {
		t.Errorf("%s, %v", b, err)
	}
}

// The hints of an error reach the client beside its text.
func TestHintsCrossTheWire(t *testing.T) {
	sent := lastResponse(errors.Join(hint.Add(errors.New("one"), "first"), hint.Add(errors.New("two"), "second")))
	got := sent.err()
	if got == nil || got.Error() != "one\ntwo" || hint.Of(got) != "first\nsecond" {
		t.Errorf("%v, hint %q", got, hint.Of(got))
	}
	if err := lastResponse(nil).err(); err != nil {
		t.Errorf("%v", err)
	}
	if err := (response{Error: "old"}).err(); err == nil || err.Error() != "old" || hint.Of(err) != "" {
		t.Errorf("%v", err)
	}
}
