// This file opens a shell in a stage that failed, for build --shell-on-error.

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"meros/graph"
	"meros/runner"
	"meros/stages"
)

// showTerminal shows another terminal on the user's until restore is called, which closes
// slave. Control-C goes to the shell in the other terminal; if none runs yet, showTerminal
// calls interrupt.
func showTerminal(master, slave *os.File, interrupt func()) (restore func(), err error) {
	in := int(os.Stdin.Fd())
	was, err := term.MakeRaw(in)
	if err != nil {
		return nil, fmt.Errorf("use the terminal: %w", err)
	}
	pty.InheritSize(os.Stdin, master)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	go func() {
		for range resized {
			pty.InheritSize(os.Stdin, master)
		}
	}()
	go io.Copy(&keyboard{master, interrupt}, os.Stdin) // it ends with the process, the only reader of the input
	shown := make(chan struct{})
	go func() { io.Copy(os.Stderr, master); close(shown) }()
	return func() {
		slave.Close() // the last writer: the reader gets the rest and then an error
		<-shown
		signal.Stop(resized)
		close(resized)
		term.Restore(in, was)
	}, nil
}

// keyboard passes the user's input on.
type keyboard struct {
	master    *os.File
	interrupt func()
}

// controlC is the byte of control-C in a raw terminal.
const controlC = 3

func (k *keyboard) Write(p []byte) (int, error) {
	if bytes.IndexByte(p, controlC) >= 0 {
		// No process has it as its controlling terminal, ioctl_tty(2).
		if group, err := unix.IoctlGetInt(int(k.master.Fd()), unix.TIOCGPGRP); err != nil || group <= 0 {
			k.interrupt()
			return len(p), nil
		}
	}
	return k.master.Write(p)
}

// shell runs a failed node again and opens a shell where it fails. The node has a terminal
// of its own that is shown on the user's: foreign programs could type commands into the
// user's own terminal.
func (w *workspace) shell(e *env, plan *graph.Plan, failed *graph.Node) error {
	master, slave, err := pty.Open()
	if err != nil {
		return fmt.Errorf("open a terminal: %w", err)
	}
	defer master.Close()
	ctx, cancel := context.WithCancelCause(e.ctx)
	defer cancel(nil)
	restore, err := showTerminal(master, slave, func() { cancel(errInterrupted) })
	if err != nil {
		slave.Close()
		return err
	}
	defer restore()
	failed.Hints = append(slices.Clone(failed.Hints), graph.Param{Name: stages.HintShell, Value: "yes"})
	o, err := w.graphOptions(1, func(*graph.Job) runner.Stdio { return runner.Stdio{Stdin: slave, Stdout: slave, Stderr: slave} })
	if err != nil {
		return err
	}
	_, err = graph.Build(ctx, plan, []*graph.Node{failed}, o)
	if err == nil {
		e.ui.note("the stage did not fail this time")
	}
	return nil
}
