// This file returns the status of machines and connects to their consoles,
// screens and shells.

package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"meros/runner/ssh"
)

// State is how a machine is.
type State string

const (
	Stopped     State = "stopped"     // never started, or shut down
	Starting    State = "starting"    // runs, and nobody could log in yet
	Ready       State = "ready"       // runs, and ssh answers
	Paused      State = "paused"      // stands still: the host has no room for what it writes, or somebody stopped it
	Unreachable State = "unreachable" // runs, and ssh does not answer any more
	Ended       State = "ended"       // ended itself: powered off, rebooted or panicked
	Crashed     State = "crashed"     // its QEMU did not end in order
)

// Status is what is known of a machine.
type Status struct {
	Constellation string    `json:"constellation,omitempty"`
	Machine       string    `json:"machine"`
	State         State     `json:"state"`
	PID           int       `json:"pid,omitempty"`
	Exit          string    `json:"exit,omitempty"` // of a crashed machine, how its process ended; of a paused one, why
	User          string    `json:"user,omitempty"` // who logs in
	Started       time.Time `json:"started,omitzero"`
	Ready         float64   `json:"ready_seconds,omitempty"` // from start to the first login
	Accel         string    `json:"accel,omitempty"`
	Memory        int64     `json:"memory,omitempty"` // bytes
	CPUs          int       `json:"cpus,omitempty"`
	Image         string    `json:"image,omitempty"`
	Console       string    `json:"console,omitempty"`        // file
	Received      int64     `json:"received_bytes,omitempty"` // on its networks, since it started
	Sent          int64     `json:"sent_bytes,omitempty"`
	Tail          []string  `json:"console_tail,omitempty"`
}

// bannerTimeout is how long a guest that computes may take to greet.
const bannerTimeout = 5 * time.Second

// info returns a machine's status without a supervisor's help.
func (g *Group) info(ctx context.Context, machine string) (Status, error) {
	s, r, err := g.recorded(machine)
	if err != nil || r == nil {
		return s, err
	}
	_, err = g.inspect(ctx, machine, r, &s)
	return s, err
}

// info is [Group.info]. It saves the login if a connection is still open.
func (l *launcher) info(ctx context.Context, machine string) (Status, error) {
	s, r, err := l.recorded(machine)
	if err != nil || r == nil {
		return s, err
	}
	if l.answers(machine) {
		s.State = Ready
		return s, nil
	}
	h, err := l.inspect(ctx, machine, r, &s)
	if err == nil && s.State == Ready {
		go l.renew(ctx, machine, h)
	}
	return s, err
}

// recorded returns the part of a machine's status that its files hold. The
// record is nil if the machine does not run or its record cannot be read.
func (g *Group) recorded(machine string) (Status, *record, error) {
	s := Status{Machine: machine, State: Stopped}
	if _, err := os.Stat(g.Console(machine)); err == nil {
		s.Console = g.Console(machine)
	}
	r, err := g.readRecord(machine)
	switch {
	case err != nil && g.alive(machine):
		// The record is lost, the machine is not.
		s.State, s.PID, s.Tail = Unreachable, g.pid(machine), []string{"its record cannot be read: " + err.Error() + " (meros shutdown ends it)"}
		return s, nil, nil
	case err != nil:
		return s, nil, nil
	}
	s.Started, s.Ready, s.Accel, s.Memory, s.CPUs, s.Image = r.Started, r.Ready, r.Accel, r.Memory, r.CPUs, r.Image
	if g.alive(machine) {
		s.PID, s.User = r.HostPID, r.User
		return s, r, nil
	}
	s.State, s.Tail = Ended, consoleTail(g.Console(machine), tailLines)
	switch {
	case r.Exit == "":
		s.State, s.Exit = Crashed, "its supervisor was killed, and it with that"
	case r.Exit != exitOK:
		s.State, s.Exit = Crashed, "QEMU: "+r.Exit
	}
	return s, nil, nil
}

// inspect completes the status of a machine that runs: it asks QEMU and the
// guest's sshd.
func (g *Group) inspect(ctx context.Context, machine string, r *record, s *Status) (*ssh.Host, error) {
	if s.Exit = g.paused(ctx, machine); s.Exit != "" {
		s.State = Paused
		return nil, nil
	}
	h, err := g.host(machine, r.User, r.Port)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(bannerTimeout); ; {
		if _, err = h.Banner(ctx, time.Until(end)); err == nil || time.Now().After(end) || ctx.Err() != nil {
			break
		}
		time.Sleep(20 * time.Millisecond) // refused: sshd is starting
	}
	switch {
	case err == nil:
		s.State = Ready
	case r.Ready == 0:
		s.State = Starting
	default:
		s.State = Unreachable
	}
	return h, nil
}

// DialConsole connects to the machine's serial line, which serves one at a
// time.
func (g *Group) DialConsole(ctx context.Context, machine string) (net.Conn, error) {
	return g.dialSocket(ctx, machine, serialFile)
}

// DialBulk connects to the machine's [qemu.BulkPort]. It fails where another
// process uses that, or the machine has none.
func (g *Group) DialBulk(ctx context.Context, machine string) (net.Conn, error) {
	lock, err := openLock(g.file(machine, bulkLock))
	if err != nil {
		return nil, err
	}
	if ok, err := tryLock(lock); err != nil || !ok {
		return nil, errors.Join(err, lock.Close(), errors.New("another copy is under way"))
	}
	c, err := g.dialSocket(ctx, machine, bulkFile)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &exclusive{c.(*net.UnixConn), lock}, nil
}

// exclusive is a connection that holds a lock.
type exclusive struct {
	*net.UnixConn
	lock *os.File
}

// Close implements net.Conn. The lock goes last: QEMU takes one connection at
// a time.
func (c *exclusive) Close() error { return errors.Join(c.UnixConn.Close(), c.lock.Close()) }

func (g *Group) dialSocket(ctx context.Context, machine, file string) (net.Conn, error) {
	if !g.alive(machine) {
		return nil, fmt.Errorf("%s/%s %w (meros init %s)", g.Name, machine, ErrNotRunning, g.Name)
	}
	address, done, err := socketAddress(g.file(machine, file))
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", address)
	if err != nil {
		return nil, fmt.Errorf("%s of %s/%s: %w", file, g.Name, machine, errors.Unwrap(err))
	}
	return c, nil
}

// Screen is the unix socket at which a machine with a display shows it by VNC.
func (g *Group) Screen(machine string) (string, error) {
	file := g.file(machine, screenFile)
	switch _, err := os.Stat(file); {
	case !g.alive(machine):
		return "", fmt.Errorf("%s/%s %w (meros init %s)", g.Name, machine, ErrNotRunning, g.Name)
	case err != nil:
		return "", fmt.Errorf("%s/%s was started without a display (display: true in its manifest, then meros restart %[1]s %[2]s)", g.Name, machine)
	}
	return file, nil
}

// SSHConfig is a machine's part of an ssh_config(5), whether it runs or not.
func (g *Group) SSHConfig(machine, user string, proxy []string) (string, error) {
	h, err := g.host(machine, user, 0)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(g.dir(machine), 0o700); err != nil {
		return "", err
	}
	known := filepath.Join(g.Keys, machine, knownFile)
	if err := os.WriteFile(known, h.KnownHost(), 0o600); err != nil {
		return "", err
	}
	return h.Config(known, proxy), nil
}

// ErrNotRunning is what there is to say of a machine that is not there.
var ErrNotRunning = errors.New("is not running")

// ConnectArgv is the call of ssh(1) that opens a shell on the machine, or
// runs a command there. proxy is the call of this program that connects its
// standard input and output to the machine's port 22, more are options of ssh.
func (g *Group) ConnectArgv(machine string, proxy, more, command []string) ([]string, error) {
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
	h.Control = g.file(machine, controlFile)
	return h.Argv(g.file(machine, knownFile), proxy, more, command), nil
}
