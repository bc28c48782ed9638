package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"meros/runner/vm"
)

type topCmd struct {
	Constellation string        `arg:"" help:"Name of the constellation."`
	Interval      time.Duration `default:"2s" help:"Over how long rates are measured."`
	Once          bool          `help:"Show it once, and do not go on."`
	JSON          bool          `name:"json" help:"Print a JSON array of objects, once."`
}

// usage is what a machine has used of the host up to a moment.
type usage struct {
	at             time.Time
	cpu            float64 // seconds of processors
	read, written  int64   // bytes of disks
	received, sent int64   // bytes of networks
	memory         int64   // bytes that are in memory now
}

// load is what a machine uses.
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
			return nil // the way to end it
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

func loadTable(loads []load) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-15s %-12s %6s %9s %11s %11s %11s %11s", "MACHINE", "STATE", "CPU", "MEMORY", "READ", "WRITTEN", "RECEIVED", "SENT")
	for _, l := range loads {
		fmt.Fprintf(&b, "\n%-15s %-12s %5.0f%% %9s %9s/s %9s/s %9s/s %9s/s", l.Machine, l.State, l.CPU, bytesText(l.Memory), bytesText(l.Read), bytesText(l.Written), bytesText(l.Received), bytesText(l.Sent))
	}
	return b.String()
}

func loadOf(s vm.Status, before, now usage) load {
	l := load{Machine: s.Machine, State: s.State, Memory: now.memory}
	took := now.at.Sub(before.at).Seconds()
	if before.at.IsZero() || took <= 0 || now.cpu < before.cpu {
		return l
	}
	rate := func(a, b int64) int64 { return int64(max(float64(b-a)/took, 0)) }
	l.CPU = (now.cpu - before.cpu) / took * 100
	l.Read, l.Written = rate(before.read, now.read), rate(before.written, now.written)
	l.Received, l.Sent = rate(before.received, now.received), rate(before.sent, now.sent)
	return l
}

// measure asks the kernel of each machine's process.
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
		u, err := usageOf(s.PID)
		if err != nil {
			continue // it has just ended
		}
		u.received, u.sent = s.Received, s.Sent
		all[s.Machine] = u
	}
	return all, states, nil
}

// usageOf reads proc_pid_stat(5), proc_pid_statm(5) and proc_pid_io(5).
func usageOf(pid int) (usage, error) {
	u := usage{at: time.Now()}
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return u, err
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 22 {
		return u, fmt.Errorf("%sstat is too short", dir)
	}
	number := func(s string) float64 { n, _ := strconv.ParseFloat(s, 64); return n }
	const ticks = 100 // USER_HZ, fixed on all of Linux' architectures that QEMU runs on
	u.cpu = (number(f[11]) + number(f[12])) / ticks
	u.memory = int64(number(f[21])) * int64(os.Getpagesize())
	io, err := os.ReadFile(dir + "io") // of another user's process only root may
	if err != nil {
		return u, nil
	}
	for line := range strings.Lines(string(io)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "read_bytes":
			u.read = int64(number(value))
		case "write_bytes":
			u.written = int64(number(value))
		}
	}
	return u, nil
}
