// This file is the verb top: it measures what machines use of this host.

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"meros/runner/host"
	"meros/runner/vm"
)

type topCmd struct {
	Constellation string        `arg:"" help:"Name of the constellation."`
	Interval      time.Duration `default:"2s" help:"Time over which to measure."`
	Once          bool          `help:"Print once and exit."`
	JSON          bool          `name:"json" help:"Print a JSON array of objects, once."`
}

// usage is what a machine has used up to a moment.
type usage struct {
	host.Usage
	received, sent int64 // bytes of networks
}

// load is what a machine uses now.
type load struct {
	Machine  string   `json:"machine"`
	State    vm.State `json:"state"`
	CPU      float64  `json:"cpu_percent"` // of one processor
	Memory   int64    `json:"memory"`      // bytes
	Read     int64    `json:"read"`        // bytes in a second
	Written  int64    `json:"written"`
	Received int64    `json:"received"`
	Sent     int64    `json:"sent"`
}

// Run implements the verb.
func (c *topCmd) Run(e *env) error {
	if c.Interval < 100*time.Millisecond {
		return usageError{errors.New("--interval: at least 100ms")}
	}
	once := c.Once || c.JSON || !term.IsTerminal(int(os.Stdout.Fd()))
	before, _, err := c.measure(e)
	if err != nil {
		return err
	}
	for {
		select {
		case <-e.ctx.Done():
			return nil // the user stops it so
		case <-time.After(c.Interval):
		}
		now, states, err := c.measure(e)
		if err != nil {
			return err
		}
		loads := []load{}
		for _, s := range states {
			loads = append(loads, loadOf(s, before[s.Machine], now[s.Machine]))
		}
		before = now
		if c.JSON {
			return e.sayJSON(loads)
		}
		if !once {
			e.ui.say("\x1b[H\x1b[J%s", loadTable(loads))
			continue
		}
		e.ui.say("%s", loadTable(loads))
		return nil
	}
}

// loadTable formats the loads as a table.
func loadTable(loads []load) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-15s %-12s %6s %9s %11s %11s %11s %11s", "MACHINE", "STATE", "CPU", "MEMORY", "READ", "WRITTEN", "RECEIVED", "SENT")
	for _, l := range loads {
		fmt.Fprintf(&b, "\n%-15s %-12s %5.0f%% %9s %9s/s %9s/s %9s/s %9s/s", l.Machine, l.State, l.CPU, bytesText(l.Memory), bytesText(l.Read), bytesText(l.Written), bytesText(l.Received), bytesText(l.Sent))
	}
	return b.String()
}

// loadOf returns the load of a machine between two measurements. It is zero if they are of
// different processes.
func loadOf(s vm.Status, before, now usage) load {
	l := load{Machine: s.Machine, State: s.State, Memory: now.Memory}
	took := now.At.Sub(before.At).Seconds()
	if before.At.IsZero() || took <= 0 || now.CPU < before.CPU {
		return l
	}
	rate := func(a, b int64) int64 { return int64(max(float64(b-a)/took, 0)) }
	l.CPU = (now.CPU - before.CPU) / took * 100
	l.Read, l.Written = rate(before.Read, now.Read), rate(before.Written, now.Written)
	l.Received, l.Sent = rate(before.received, now.received), rate(before.sent, now.sent)
	return l
}

// measure reads the usage of the running machines.
func (c *topCmd) measure(e *env) (map[string]usage, []vm.Status, error) {
	g, machines, err := runningMachines(e, c.Constellation, nil)
	if err != nil {
		return nil, nil, err
	}
	states, err := g.Info(e.ctx, machines)
	if err != nil {
		return nil, nil, err
	}
	all := make(map[string]usage)
	for _, s := range states {
		u, err := host.UsageOf(s.PID)
		if err != nil {
			continue // the machine has just ended
		}
		all[s.Machine] = usage{u, s.Received, s.Sent}
	}
	return all, states, nil
}
