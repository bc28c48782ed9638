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

// Down is how and how fast a machine went down.
type Down struct {
	Machine string
	Method  string        `json:"Way,omitempty"` // "acpi", "ssh", "quit" or "kill"; "" if it was not running
	Took    time.Duration `json:",omitempty"`
}

// downStep is one way to end a machine and the time it is given.
type downStep struct {
	method string
	wait   time.Duration
	repeat time.Duration // after which it is done once more; 0: it is done once
	do     func(context.Context) error
}

// repeatPause is how long a guest is left alone that did not hear.
const repeatPause = 5 * time.Second

// shutdown ends a machine, and removes its disk and secrets.
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

// end ends a machine if it runs: by its power button and by poweroff over ssh,
// the surer of the two first, then by ending QEMU, then by killing it, the first
// two with timeout each, or not at all if that is 0.
func (l *launcher) end(ctx context.Context, machine string, timeout time.Duration) (Down, error) {
	d := Down{Machine: machine}
	began := time.Now()
	// A record that is lost or damaged is no reason to let a machine run on: its
	// monitor needs none.
	r, err := l.readRecord(machine)
	if !l.alive(machine) {
		return d, nil
	}
	if err != nil {
		r = &record{PID: l.pid(machine), Boot: bootID()}
		r.Start, _ = processStart(r.PID) // it holds the lock, so the number is its own
	}
	for _, step := range l.downSteps(machine, r, timeout) {
		if err := step.do(ctx); err != nil && ctx.Err() == nil {
			continue // the next way is a harder one
		}
		if l.took(ctx, machine, step) {
			d.Method, d.Took = step.method, time.Since(began)
			return d, nil
		}
		if ctx.Err() != nil {
			return d, context.Cause(ctx)
		}
	}
	return d, fmt.Errorf("%s/%s: process %d does not end", l.Name, machine, r.PID)
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
		// Nobody in a guest that still boots listens to its button.
		{"acpi", timeout, repeatPause, monitor((*raw.Monitor).SystemPowerdown)},
		{"ssh", timeout, 0, func(ctx context.Context) error { return l.poweroff(ctx, machine, r) }},
	}
	hard := []downStep{
		// It writes what it holds of the disks first, which may be much.
		{"quit", 30 * time.Second, 0, monitor((*raw.Monitor).Quit)},
		{"kill", 5 * time.Second, 0, func(context.Context) error { return r.kill(unix.SIGKILL) }},
	}
	if timeout <= 0 {
		return hard
	}
	// Without a power button of ACPI, QEMU presses a key on a pin, whose driver
	// the kernels for virtual machines may lack.
	if a, err := arch.Find(r.Arch); r.Arch != "" && (err != nil || !a.Board.PowerButton) {
		slices.Reverse(gentle)
	}
	return append(gentle, hard...)
}

// poweroffTimeout is how long a guest may take to be asked.
const poweroffTimeout = 20 * time.Second

// poweroff asks the guest's own init.
func (l *launcher) poweroff(ctx context.Context, machine string, r *record) error {
	if r.Port == 0 {
		return errors.New("its port is not known")
	}
	h, err := l.host(machine, r.User, r.Port)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, poweroffTimeout)
	defer cancel()
	// A guest that obeys at once closes the connection before it answers.
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

// took waits until the machine has ended by a step.
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
		step.do(ctx) // where that fails, it ends or the next step follows
	}
}

// gone waits until the machine's process has ended.
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
