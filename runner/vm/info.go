package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// State is how a machine is.
type State string

const (
	Stopped     State = "stopped"     // never started, or shut down
	Starting    State = "starting"    // runs, and nobody could log in yet
	Ready       State = "ready"       // runs, and ssh answers
	Unreachable State = "unreachable" // runs, and ssh does not answer any more
	Ended       State = "ended"       // ended itself: powered off, rebooted or panicked
	Crashed     State = "crashed"     // its QEMU did not end in order
)

// Status is what is known of a machine.
type Status struct {
	Machine string    `json:"machine"`
	State   State     `json:"state"`
	PID     int       `json:"pid,omitempty"`
	Exit    string    `json:"exit,omitempty"` // of a crashed machine: how its process ended
	User    string    `json:"user,omitempty"` // who logs in
	Started time.Time `json:"started,omitzero"`
	Ready   float64   `json:"ready_seconds,omitempty"` // from start to the first login
	Accel   string    `json:"accel,omitempty"`
	Memory  int64     `json:"memory,omitempty"` // bytes
	CPUs    int       `json:"cpus,omitempty"`
	Image   string    `json:"image,omitempty"`
	Console string    `json:"console,omitempty"` // file
	Tail    []string  `json:"console_tail,omitempty"`
}

// info looks how a machine is: it asks the process and, where that can be
// reached, the guest's sshd.
func (g *Group) info(ctx context.Context, machine string) (Status, error) {
	s := Status{Machine: machine, State: Stopped}
	if _, err := os.Stat(g.Console(machine)); err == nil {
		s.Console = g.Console(machine)
	}
	r, err := g.readRecord(machine)
	switch {
	case err != nil && g.alive(machine):
		// What is known of it is lost, not the machine.
		s.State, s.PID, s.Tail = Unreachable, g.pid(machine), []string{"its record cannot be read: " + err.Error() + " (meros shutdown ends it)"}
		return s, nil
	case err != nil:
		return s, nil
	}
	s.Started, s.Ready, s.Accel, s.Memory, s.CPUs, s.Image = r.Started, r.Ready, r.Accel, r.Memory, r.CPUs, r.Image
	if !g.alive(machine) {
		s.State, s.Tail = Ended, consoleTail(g.Console(machine), tailLines)
		switch {
		case r.Exit == "":
			s.State, s.Exit = Crashed, "its supervisor was killed, and it with that"
		case r.Exit != exitOK:
			s.State, s.Exit = Crashed, "QEMU: "+r.Exit
		}
		return s, nil
	}
	s.PID, s.User = r.HostPID, r.User
	h, err := g.host(machine, r.User, r.Port)
	if err != nil {
		return s, err
	}
	_, err = h.Banner(ctx)
	switch {
	case err == nil:
		s.State = Ready
	case r.Ready == 0:
		s.State = Starting
	default:
		s.State = Unreachable
	}
	return s, nil
}

// ErrNotRunning is what there is to say of a machine that is not there.
var ErrNotRunning = errors.New("is not running")

// ConnectArgv is the call of ssh(1) that opens a shell on the machine, or
// runs a command there. proxy is the call of this program that connects its
// standard input and output to the machine's port 22.
func (g *Group) ConnectArgv(machine string, proxy, command []string) ([]string, error) {
	if !g.alive(machine) {
		return nil, fmt.Errorf("%s/%s %w (meros init %s)", g.Name, machine, ErrNotRunning, g.Name)
	}
	r, err := g.readRecord(machine)
	if err != nil {
		return nil, err
	}
	h, err := g.host(machine, r.User, r.Port)
	if err != nil {
		return nil, err
	}
	return h.Argv(g.file(machine, knownFile), proxy, command), nil
}
