// This file starts the two processes of a group's supervisor and hands their
// connections to ssh(1).

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"meros/runner"
	"meros/runner/ssh"
	"meros/runner/vm"
)

// By these first arguments meros starts itself as the two processes of a
// supervisor.
const (
	superviseArg      = "supervise"
	superviseInnerArg = "supervise-inner"
)

// superviseMain is one of the two processes.
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
		fmt.Fprintln(stderr, "meros:", err)
		return exitFailed
	}
	return exitOK
}

// supervise is the process that [vm.Group.Start] starts: text is the group.
func supervise(ctx context.Context, name, text string) error {
	g := new(vm.Group)
	if err := json.Unmarshal([]byte(text), g); err != nil {
		return err
	}
	uplink := vm.Uplink{Attach: runner.AttachUserNetwork, Resolver: runner.UserResolver}
	return vm.Supervise(ctx, g, []string{name, superviseInnerArg}, uplink, os.NewFile(3, "ready"))
}

// supervisorOf is the call of this program that is the group's supervisor.
func supervisorOf(g *vm.Group) ([]string, error) {
	text, err := json.Marshal(g)
	return []string{os.Args[0], superviseArg, string(text)}, err
}

// ncCmd is what ssh(1) starts to reach a machine: it hands over a connection on
// which the machine greets, and ends.
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
		return fmt.Errorf("standard output is no socket that could take a connection: %w", err)
	}
	defer out.Close()
	u, ok := out.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("standard output is no unix socket")
	}
	_, _, err = u.WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil)
	return err
}

// proxy is the call of this program that connects ssh(1) to a machine.
func proxy(e *env, constellation, machine string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return []string{self, "--root=" + e.root, "nc", constellation, machine, strconv.Itoa(22)}, nil
}
