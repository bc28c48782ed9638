// This file is the verb snapshot and the verbs below it.

package main

import "meros/runner/vm"

type snapshotCmd struct {
	Save    snapshotSaveCmd    `cmd:"" help:"Snapshot memory and disks of running machines at the same instant."`
	List    snapshotListCmd    `cmd:"" help:"List the snapshots of running machines."`
	Restore snapshotRestoreCmd `cmd:"" help:"Restore running machines from a snapshot."`
	Rm      snapshotRmCmd      `cmd:"" help:"Remove a snapshot."`
}

type snapshotArgs struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Name          string   `arg:"" help:"Name of the snapshot."`
	Machine       []string `arg:"" optional:"" help:"Machines (default: all that run)."`
}

type (
	snapshotSaveCmd    struct{ snapshotArgs }
	snapshotRestoreCmd struct{ snapshotArgs }
	snapshotRmCmd      struct{ snapshotArgs }
)

// apply calls do for the named machines, or for all that run.
func (a *snapshotArgs) apply(e *env, what string, do func(g *vm.Group, machines []string) error) error {
	g, machines, err := runningMachines(e, a.Constellation, a.Machine)
	if err != nil {
		return err
	}
	unlock, err := lockGroup(e, g)
	if err != nil {
		return err
	}
	defer unlock()
	if err := do(g, machines); err != nil {
		return err
	}
	for _, m := range machines {
		e.ui.note("%s/%s: snapshot %s %s", g.Name, m, a.Name, what)
	}
	return nil
}

// Run implements the verb.
func (c *snapshotSaveCmd) Run(e *env) error {
	return c.apply(e, "saved; it lasts until the machine is shut down", func(g *vm.Group, ms []string) error { return g.Save(e.ctx, ms, c.Name) })
}

// Run implements the verb.
func (c *snapshotRestoreCmd) Run(e *env) error {
	return c.apply(e, "restored", func(g *vm.Group, ms []string) error { return g.Restore(e.ctx, ms, c.Name) })
}

// Run implements the verb.
func (c *snapshotRmCmd) Run(e *env) error {
	return c.apply(e, "removed", func(g *vm.Group, ms []string) error { return g.Forget(e.ctx, ms, c.Name) })
}

type snapshotListCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       []string `arg:"" optional:"" help:"Machines (default: all that run)."`
	JSON          bool     `name:"json" help:"Print a JSON array of objects."`
}

// Run implements the verb.
func (c *snapshotListCmd) Run(e *env) error {
	g, machines, err := runningMachines(e, c.Constellation, c.Machine)
	if err != nil {
		return err
	}
	all, err := g.Snapshots(e.ctx, machines)
	if err != nil {
		return err
	}
	if c.JSON {
		if all == nil {
			all = []vm.Snapshot{}
		}
		return e.sayJSON(all)
	}
	for _, s := range all {
		e.ui.say("%-15s %-20s %s  %s of memory", s.Machine, s.Name, s.Taken.Local().Format("2006-01-02 15:04:05"), bytesText(s.Memory))
	}
	return nil
}
