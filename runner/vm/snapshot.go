// This file saves and restores the memory and disks of running machines.

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/digitalocean/go-qemu/qmp/raw"

	"meros/runner/hint"
	"meros/runner/qemu"
)

// Snapshot is a saved state of a machine's memory and disks. The machine can
// return to it while it runs.
type Snapshot struct {
	Machine string    `json:"machine"`
	Name    string    `json:"name"`
	Taken   time.Time `json:"taken"`
	Memory  int64     `json:"memory"` // size of the saved memory in bytes
}

// snapshotName matches the valid names of snapshots.
var snapshotName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// Snapshots returns the snapshots of machines, oldest first.
func (g *Group) Snapshots(ctx context.Context, machines []string) ([]Snapshot, error) {
	var all []Snapshot
	err := g.running(g.call(ctx, request{Op: "snapshots", Machines: machines}, func(r response) { all = append(all, r.Snapshots...) }))
	slices.SortStableFunc(all, func(a, b Snapshot) int { return a.Taken.Compare(b.Taken) })
	return all, err
}

// Save takes a snapshot of all machines at the same instant: it pauses them until
// all are saved.
func (g *Group) Save(ctx context.Context, machines []string, name string) error {
	return g.snapshot(ctx, "save", machines, name)
}

// Restore returns machines to a snapshot that each of them has.
func (g *Group) Restore(ctx context.Context, machines []string, name string) error {
	// The restored machine does not know the connections that are open now.
	for _, m := range machines {
		if err := os.Remove(g.file(m, controlFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return g.snapshot(ctx, "restore", machines, name)
}

// Forget removes a snapshot of machines.
func (g *Group) Forget(ctx context.Context, machines []string, name string) error {
	return g.snapshot(ctx, "forget", machines, name)
}

func (g *Group) snapshot(ctx context.Context, op string, machines []string, name string) error {
	if !snapshotName.MatchString(name) {
		err := fmt.Errorf("%q is not a valid name of a snapshot", name)
		return hint.Add(err, "use at most 64 letters, digits, dots, hyphens and underscores, a letter or digit first")
	}
	return g.running(g.call(ctx, request{Op: op, Machines: machines, Name: name}, nil))
}

// running turns the lack of a supervisor into [ErrNotRunning].
func (g *Group) running(err error) error {
	if errors.Is(err, errNoSupervisor) {
		return hint.Add(fmt.Errorf("%s %w", g.Name, ErrNotRunning), "`meros init %s` starts its machines", g.Name)
	}
	return err
}

// snapshots serves the requests about snapshots in the supervisor.
func (s *inner) snapshots(ctx context.Context, r request, send func(response)) error {
	s.mu.Lock() // no machine starts meanwhile
	defer s.mu.Unlock()
	ctx = context.WithoutCancel(ctx)
	each := func(f func(machine string, c *raw.Monitor) error) error {
		errs := make([]error, len(r.Machines))
		var wg sync.WaitGroup
		for i, m := range r.Machines {
			wg.Go(func() {
				if err := s.monitored(ctx, m, f); err != nil {
					errs[i] = fmt.Errorf("%s/%s: %w", s.Name, m, err)
				}
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	have := func(machine string, c *raw.Monitor) error {
		all, err := snapshotsOf(machine, c)
		if err == nil && !slices.ContainsFunc(all, func(o Snapshot) bool { return o.Name == r.Name }) {
			var names []string
			for _, o := range all {
				names = append(names, o.Name)
			}
			err = fmt.Errorf("there is no snapshot %q", r.Name)
			if len(names) > 0 {
				err = hint.Add(err, "%s/%s has %q", s.Name, machine, names)
			}
		}
		return err
	}
	stop := func(_ string, c *raw.Monitor) error { return c.Stop() }
	cont := func(_ string, c *raw.Monitor) error { return c.Cont() }
	switch r.Op {
	case "save":
		return errors.Join(each(stop), each(human("savevm "+r.Name)), each(cont))
	case "restore":
		if err := each(have); err != nil {
			return err
		}
		return errors.Join(each(stop), each(human("loadvm "+r.Name)), each(cont))
	case "forget":
		if err := each(have); err != nil {
			return err
		}
		return each(human("delvm " + r.Name))
	}
	return each(func(machine string, c *raw.Monitor) error {
		all, err := snapshotsOf(machine, c)
		send(response{Snapshots: all})
		return err
	})
}

// human returns a function that runs a command of QEMU's human monitor, which
// prints its errors.
func human(line string) func(string, *raw.Monitor) error {
	return func(_ string, c *raw.Monitor) error {
		said, err := c.HumanMonitorCommand(line, nil)
		if err == nil && said != "" {
			err = fmt.Errorf("%s: %s", line, said)
		}
		return err
	}
}

// monitored calls f with the monitor of a running machine.
func (s *inner) monitored(ctx context.Context, machine string, f func(string, *raw.Monitor) error) error {
	if !s.alive(machine) {
		return hint.Add(ErrNotRunning, "`meros init %s %s` starts it", s.Name, machine)
	}
	m, err := qemu.Dial(ctx, s.file(machine, socketFile))
	if err != nil {
		return err
	}
	defer m.Close()
	return f(machine, m.Commands(ctx))
}

func snapshotsOf(machine string, c *raw.Monitor) ([]Snapshot, error) {
	nodes, err := c.QueryNamedBlockNodes()
	if err != nil {
		return nil, err
	}
	var all []Snapshot
	for _, n := range nodes {
		if n.NodeName == nil || *n.NodeName != "disk0-0" {
			continue
		}
		for _, o := range n.Image.Snapshots {
			all = append(all, Snapshot{machine, o.Name, time.Unix(o.DateSec, o.DateNsec).UTC(), o.VMStateSize})
		}
	}
	return all, nil
}
