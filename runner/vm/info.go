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

	"meros/runner/hint"
	"meros/runner/ssh"
)

// State is the state of a machine.
type State string

const (
	Stopped     State = "stopped"     // never started, or shut down
	Starting    State = "starting"    // runs, but no login has succeeded yet
	Ready       State = "ready"       // runs, and ssh answers
	Paused      State = "paused"      // waits for free space on the host, or was paused through its monitor
	Unreachable State = "unreachable" // runs, but ssh no longer answers
	Ended       State = "ended"       // ended itself: powered off, rebooted or panicked
	Crashed     State = "crashed"     // its QEMU failed or was killed
)

// Status is the state of a machine with its details.
type Status struct {
	Constellation string    `json:"constellation,omitempty"`
	Machine       string    `json:"machine"`
	State         State     `json:"state"`
	PID           int       `json:"pid,omitempty"`
	Exit          string    `json:"exit,omitempty"` // how the process of a crashed machine ended, or why a machine is paused
	Hint          string    `json:"hint,omitempty"` // the next step, if there is one
	User          string    `json:"user,omitempty"` // user name for logins
	Started       time.Time `json:"started,omitzero"`
	Ready         float64   `json:"ready_seconds,omitempty"` // from start to the first login
	Accel         string    `json:"accel,omitempty"`
	Memory        int64     `json:"memory,omitempty"` // bytes
	CPUs          int       `json:"cpus,omitempty"`
	Image         string    `json:"image,omitempty"`
	Console       string    `json:"console,omitempty"`        // log file
	Received      int64     `json:"received_bytes,omitempty"` // on its networks, since it started
	Sent          int64     `json:"sent_bytes,omitempty"`
	Tail          []string  `json:"console_tail,omitempty"`
}

// bannerTimeout is the longest time for the ssh greeting of a busy guest.
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
		s.State, s.PID, s.Tail = Unreachable, g.pid(machine), []string{"cannot read its record: " + err.Error()}
		s.Hint = fmt.Sprintf("`meros shutdown %s %s` ends it", g.Name, machine)
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
		s.State, s.Exit = Crashed, "its supervisor was killed"
	case r.Exit != exitOK:
		s.State, s.Exit = Crashed, "QEMU: "+r.Exit
	}
	return s, nil, nil
}

// inspect completes the status of a machine that runs: it asks QEMU and the
// guest's sshd.
func (g *Group) inspect(ctx context.Context, machine string, r *record, s *Status) (*ssh.Host, error) {
	if s.Exit, s.Hint = g.paused(ctx, machine); s.Exit != "" {
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

// DialConsole connects to the machine's serial line, which serves one client at a
// time.
func (g *Group) DialConsole(ctx context.Context, machine string) (net.Conn, error) {
	return g.dialSocket(ctx, machine, serialFile)
}

// DialBulk connects to the machine's [qemu.BulkPort]. It fails if another process
// uses the port, or the machine has none.
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

// exclusive is a connection that holds a lock until it is closed.
type exclusive struct {
	*net.UnixConn
	lock *os.File
}

// Close implements net.Conn. It releases the lock last, because QEMU accepts one
// connection at a time.
func (c *exclusive) Close() error { return errors.Join(c.UnixConn.Close(), c.lock.Close()) }

func (g *Group) dialSocket(ctx context.Context, machine, file string) (net.Conn, error) {
	if !g.alive(machine) {
		return nil, g.notRunning(machine)
	}
	address, done, err := socketAddress(g.file(machine, file))
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", address)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %s: %w", g.Name, machine, file, errors.Unwrap(err))
	}
	return c, nil
}

// Screen returns the unix socket that serves a machine's display by VNC.
func (g *Group) Screen(machine string) (string, error) {
	file := g.file(machine, screenFile)
	switch _, err := os.Stat(file); {
	case !g.alive(machine):
		return "", g.notRunning(machine)
	case err != nil:
		err = fmt.Errorf("%s/%s was started without a display", g.Name, machine)
		return "", hint.Add(err, "set `display: true` in its manifest, then `meros restart %s %s`", g.Name, machine)
	}
	return file, nil
}

// SSHConfig returns a machine's section of an ssh_config(5). The machine need not
// run.
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

// ErrNotRunning means that a machine, or every machine of a group, is not running.
var ErrNotRunning = errors.New("is not running")

func (g *Group) notRunning(machine string) error {
	return hint.Add(fmt.Errorf("%s/%s %w", g.Name, machine, ErrNotRunning), "`meros init %s %s` starts it", g.Name, machine)
}

// ConnectArgv returns the argument vector of ssh(1) that opens a shell on the
// machine, or runs command there. proxy is the argument vector by which this
// program connects to the machine's port 22. more are further options of ssh.
func (g *Group) ConnectArgv(machine string, proxy, more, command []string) ([]string, error) {
	if !g.alive(machine) {
		return nil, g.notRunning(machine)
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
