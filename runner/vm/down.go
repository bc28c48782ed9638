// This file ends machines, gently first.

package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/digitalocean/go-qemu/qmp/raw"
	cryptossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"meros/runner/arch"
	"meros/runner/qemu"
)

// Down describes how and how fast a machine ended.
type Down struct {
	Machine string
	Method  string        `json:"Way,omitempty"` // "acpi", "ssh", "quit" or "kill"; "" if it was not running
	Took    time.Duration `json:",omitempty"`
}

// downStep is one method to end a machine, with its time limit.
type downStep struct {
	method string
	wait   time.Duration
	repeat time.Duration // pause between repetitions; 0 performs the step once
	do     func(context.Context) error
}

// repeatPause is the time for a guest to react before its button is pressed again.
const repeatPause = 5 * time.Second

// shutdown ends a machine and removes its disk and secrets.
func (l *launcher) shutdown(ctx context.Context, machine string, timeout time.Duration) (Down, error) {
	d, err := l.end(ctx, machine, timeout)
	if err != nil {
		return d, err
	}
	if err := l.tidy(machine, false); err != nil {
		return d, fmt.Errorf("%s/%s: %w", l.Name, machine, err)
	}
	return d, nil
}

// end ends a machine if it runs. It tries the power button and poweroff over ssh,
// the more reliable one first, then tells QEMU to quit, then kills it. timeout
// limits each of the first two; 0 skips them.
func (l *launcher) end(ctx context.Context, machine string, timeout time.Duration) (Down, error) {
	d := Down{Machine: machine}
	began := time.Now()
	// A machine ends even if its record is lost or damaged: the monitor does not
	// need it.
	r, err := l.readRecord(machine)
	if !l.alive(machine) {
		return d, nil
	}
	if err != nil {
		r = &record{PID: l.pid(machine), Boot: bootID()}
		r.Start, _ = processStart(r.PID) // the process holds the lock, so it is the right one
	}
	for _, step := range l.downSteps(machine, r, timeout) {
		if err := step.do(ctx); err != nil && ctx.Err() == nil {
			continue // the next method is harder
		}
		if l.took(ctx, machine, step) {
			d.Method, d.Took = step.method, time.Since(began)
			return d, nil
		}
		if ctx.Err() != nil {
			return d, context.Cause(ctx)
		}
	}
	return d, fmt.Errorf("%s/%s: process %d does not exit", l.Name, machine, r.PID)
}

func (l *launcher) downSteps(machine string, r *record, timeout time.Duration) []downStep {
	monitor := func(command func(*raw.Monitor) error) func(context.Context) error {
		return func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			m, err := qemu.Dial(ctx, l.file(machine, socketFile))
			if err != nil {
				return err
			}
			defer m.Close()
			return command(m.Commands(ctx))
		}
	}
	gentle := []downStep{
		// A guest that still boots ignores its button.
		{"acpi", timeout, repeatPause, monitor((*raw.Monitor).SystemPowerdown)},
		{"ssh", timeout, 0, func(ctx context.Context) error { return l.poweroff(ctx, machine, r) }},
	}
	hard := []downStep{
		// QEMU first writes its cached disk blocks, which may take long.
		{"quit", 30 * time.Second, 0, monitor((*raw.Monitor).Quit)},
		{"kill", 5 * time.Second, 0, func(context.Context) error { return r.kill(unix.SIGKILL) }},
	}
	if timeout <= 0 {
		return hard
	}
	// Without an ACPI power button, QEMU presses a key on a GPIO pin. A kernel for
	// virtual machines may lack its driver, so ssh goes first.
	if a, err := arch.Find(r.Arch); r.Arch != "" && (err != nil || !a.Board.PowerButton) {
		slices.Reverse(gentle)
	}
	return append(gentle, hard...)
}

// poweroffTimeout is the longest time for the login and the command.
const poweroffTimeout = 20 * time.Second

// poweroff tells the guest's init to power off, over ssh.
func (l *launcher) poweroff(ctx context.Context, machine string, r *record) error {
	if r.Port == 0 {
		return errors.New("its port is unknown")
	}
	h, err := l.host(machine, r.User, r.Port)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, poweroffTimeout)
	defer cancel()
	// A quick guest closes the connection before it answers, so only the login is
	// required to succeed.
	if c, err := h.Try(ctx, poweroffTimeout); err != nil {
		return err
	} else {
		c.Close()
	}
	_, err = h.Run(ctx, "poweroff || sudo -n poweroff")
	if exit := (*cryptossh.ExitError)(nil); errors.As(err, &exit) && exit.ExitStatus() != 0 {
		return err
	}
	return nil
}

// took waits until a step has ended the machine, and repeats the step if it should
// be. It reports whether the machine ended.
func (l *launcher) took(ctx context.Context, machine string, step downStep) bool {
	for left := step.wait; ; left -= step.repeat {
		if step.repeat == 0 || left <= step.repeat {
			return l.gone(ctx, machine, left)
		}
		if l.gone(ctx, machine, step.repeat) {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		step.do(ctx) // if this fails, the machine is ending or the next step follows
	}
}

// gone waits until the machine's process has ended. It reports whether it did.
func (l *launcher) gone(ctx context.Context, machine string, wait time.Duration) bool {
	end := time.After(wait)
	for {
		if !l.alive(machine) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-end:
			return !l.alive(machine)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
