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

	"meros/runner/qemu"
)

// Snapshot is a state of a machine, memory and disk, that it can go back to
// while it runs.
type Snapshot struct {
	Machine string    `json:"machine"`
	Name    string    `json:"name"`
	Taken   time.Time `json:"taken"`
	Memory  int64     `json:"memory"` // bytes that its memory takes on the disk
}

// snapshotName is what a snapshot may be called.
var snapshotName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// Snapshots tells of the machines' snapshots, oldest first.
func (g *Group) Snapshots(ctx context.Context, machines []string) ([]Snapshot, error) {
	var all []Snapshot
	err := g.running(g.call(ctx, request{Op: "snapshots", Machines: machines}, func(r response) { all = append(all, r.Snapshots...) }))
	slices.SortStableFunc(all, func(a, b Snapshot) int { return a.Taken.Compare(b.Taken) })
	return all, err
}

// Save takes a snapshot of all machines at one moment: none runs on before all
// are written down.
func (g *Group) Save(ctx context.Context, machines []string, name string) error {
	return g.snapshot(ctx, "save", machines, name)
}

// Restore takes machines back to a snapshot that each of them has.
func (g *Group) Restore(ctx context.Context, machines []string, name string) error {
	// Connections that are open now are none that the machine knows then.
	for _, m := range machines {
		if err := os.Remove(g.file(m, controlFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return g.snapshot(ctx, "restore", machines, name)
}

// Forget removes a snapshot.
func (g *Group) Forget(ctx context.Context, machines []string, name string) error {
	return g.snapshot(ctx, "forget", machines, name)
}

func (g *Group) snapshot(ctx context.Context, op string, machines []string, name string) error {
	if !snapshotName.MatchString(name) {
		return fmt.Errorf("%q cannot be the name of a snapshot: letters, digits, dot, hyphen and underscore, at most 64", name)
	}
	return g.running(g.call(ctx, request{Op: op, Machines: machines, Name: name}, nil))
}

// running explains that nothing runs.
func (g *Group) running(err error) error {
	if errors.Is(err, errNoSupervisor) {
		return fmt.Errorf("%s %w (meros init %s)", g.Name, ErrNotRunning, g.Name)
	}
	return err
}

// snapshots is the supervisor's part of what is above.
func (s *inner) snapshots(ctx context.Context, r request, send func(response)) error {
	s.mu.Lock() // no machine starts or ends meanwhile
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
			err = fmt.Errorf("there is no snapshot %q (there are: %q)", r.Name, names)
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

// human runs a command of QEMU's monitor for people, which prints what fails.
func human(line string) func(string, *raw.Monitor) error {
	return func(_ string, c *raw.Monitor) error {
		said, err := c.HumanMonitorCommand(line, nil)
		if err == nil && said != "" {
			err = fmt.Errorf("%s: %s", line, said)
		}
		return err
	}
}

// monitored calls f with the commands of a machine that runs.
func (s *inner) monitored(ctx context.Context, machine string, f func(string, *raw.Monitor) error) error {
	if !s.alive(machine) {
		return fmt.Errorf("%w (meros init %s)", ErrNotRunning, s.Name)
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
