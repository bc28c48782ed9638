// This file decides when a machine may start and when it is ready.

package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"meros/constellations"
	"meros/runner/hint"
)

// order makes machines wait for the machines that they depend on.
type order struct {
	mu    sync.Mutex
	state map[string]chan struct{} // closed when the machine's start has ended
	err   map[string]error
}

func newOrder(machines []*Machine) *order {
	o := &order{state: make(map[string]chan struct{}), err: make(map[string]error)}
	for _, m := range machines {
		o.state[m.Name] = make(chan struct{})
	}
	return o
}

// done records how a machine's start ended.
func (o *order) done(m *Machine, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err[m.Name] = err
	close(o.state[m.Name])
}

// wait waits for the machines that m depends on. It ignores those that this start
// does not include.
func (o *order) wait(ctx context.Context, m *Machine) error {
	for _, name := range m.After {
		c := o.state[name]
		if c == nil {
			continue
		}
		select {
		case <-c:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		o.mu.Lock()
		err := o.err[name]
		o.mu.Unlock()
		if err != nil {
			return fmt.Errorf("not started, because it depends on %s", name)
		}
	}
	return nil
}

// probe tries a probe once.
func (l *launcher) probe(ctx context.Context, r *running, p constellations.Probe) error {
	if p.Exec != "" {
		if _, err := r.host.Run(ctx, p.Exec); err != nil {
			return err
		}
		return nil
	}
	local, err := l.forward(ctx, r.machine.Name, p.TCP)
	if err != nil {
		return err
	}
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", local))
	if err != nil {
		return err
	}
	defer c.Close()
	// QEMU accepts the connection before the guest does. If the guest refuses it,
	// QEMU closes it at once.
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("port %d: %w", p.TCP, err)
	}
	return nil
}

// probeName returns a probe's name for errors.
func probeName(p constellations.Probe) string {
	if p.Exec != "" {
		return fmt.Sprintf("%q", p.Exec)
	}
	return fmt.Sprintf("port %d", p.TCP)
}

// checkMemory fails if the host's memory cannot hold the machines.
func checkMemory(machines []*Machine) error {
	var want int64
	for _, m := range machines {
		want += m.Memory
	}
	have, err := availableMemory()
	if err != nil || want <= have {
		return nil // without a number, the kernel decides
	}
	err = fmt.Errorf("the machines need %d MiB of memory, but the host has only %d MiB available", want>>20, have>>20)
	return hint.Add(err, "lower `memory:`, or start fewer machines at a time: `meros init CONSTELLATION MACHINE`")
}

// availableMemory returns how many bytes of memory and swap programs can still
// get, proc_meminfo(5).
func availableMemory() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	var sum int64
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && (f[0] == "MemAvailable:" || f[0] == "SwapFree:") {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, err
			}
			sum += n << 10
		}
	}
	if sum == 0 {
		return 0, errors.New("/proc/meminfo lacks MemAvailable and SwapFree")
	}
	return sum, nil
}
