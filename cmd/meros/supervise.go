// This file runs the two processes of a group's supervisor, and passes connections
// to machines to ssh(1).

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"meros/runner"
	"meros/runner/hint"
	"meros/runner/ssh"
	"meros/runner/vm"
)

// The first arguments by which meros starts itself as one of the two processes of
// a supervisor.
const (
	superviseArg      = "supervise"
	superviseInnerArg = "supervise-inner"
)

// superviseMain runs one of the two processes and returns its exit status. The
// error goes to the supervisor's log, with each hint on a line of its own.
func superviseMain(args []string, stderr io.Writer) int {
	ctx, stop := interruptible()
	defer stop()
	var err error
	if args[1] == superviseArg {
		err = supervise(ctx, args[0], args[2])
	} else {
		err = vm.SuperviseInner(ctx, args[2])
	}
	if err != nil {
		fmt.Fprintln(stderr, "meros:", hint.Lines(err))
		return exitFailed
	}
	return exitOK
}

// supervise is the outer process, which [vm.Group.Start] starts. text is the group
// in JSON, and name is the name by which meros was called.
func supervise(ctx context.Context, name, text string) error {
	g := new(vm.Group)
	if err := json.Unmarshal([]byte(text), g); err != nil {
		return err
	}
	uplink := vm.Uplink{Attach: runner.AttachUserNetwork, Resolver: runner.UserResolver}
	return vm.Supervise(ctx, g, []string{name, superviseInnerArg}, uplink, os.NewFile(3, "ready"))
}

// supervisorOf returns the argument vector by which this program becomes the
// group's supervisor.
func supervisorOf(g *vm.Group) ([]string, error) {
	text, err := json.Marshal(g)
	return []string{os.Args[0], superviseArg, string(text)}, err
}

// ncCmd is the verb that ssh(1) runs to reach a machine. It connects to the
// machine, waits for sshd's greeting and passes the connection on.
type ncCmd struct {
	Constellation string `arg:""`
	Machine       string `arg:""`
	Port          uint16 `arg:"" optional:"" default:"22"`
}

// Run implements the verb.
func (c *ncCmd) Run(e *env) error {
	dial := func() (*os.File, error) {
		return e.group(c.Constellation).DialFile(e.ctx, c.Machine, c.Port)
	}
	f, err := ssh.Greeted(e.ctx, dial)
	if err != nil {
		return err
	}
	defer f.Close()
	out, err := net.FileConn(os.Stdout)
	if err != nil {
		return fmt.Errorf("standard output is not a socket: %w", err)
	}
	defer out.Close()
	u, ok := out.(*net.UnixConn)
	if !ok {
		return errors.New("standard output is not a unix socket")
	}
	_, _, err = u.WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil)
	return err
}

// proxy returns the argument vector by which ssh(1) runs this program to reach a
// machine.
func proxy(e *env, constellation, machine string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return []string{self, "--root=" + e.root, "nc", constellation, machine, strconv.Itoa(22)}, nil
}
