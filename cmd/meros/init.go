package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"meros/constellations"
	"meros/graph"
	"meros/runner/image"
	"meros/runner/vm"
	"meros/stages"
)

// Run implements the verb.
func (c *initCmd) Run(e *env) error {
	_, err := c.up(e)
	return err
}

// up builds what is missing and boots. An ordinary user builds in a user
// namespace and boots outside of it, where /dev/kvm and the network are.
func (c *initCmd) up(e *env) (*vm.Group, error) {
	if err := c.withDependencies(e); err != nil {
		return nil, err
	}
	b := &buildCmd{Constellation: c.Constellation, Machine: c.Machine, Locked: c.Locked, Timeout: c.Timeout, Use: c.Use, ToRun: true}
	m, chosen, err := b.load(e)
	if err == nil {
		err = canRun(e, m, chosen) // before all of it is built
	}
	if err != nil {
		return nil, err
	}
	// What the build in the namespace made is only looked up here.
	again, err := e.inNamespace(b.args()...)
	if err != nil {
		return nil, err
	}
	b.quiet = again
	done, err := b.build(e)
	if err != nil {
		return nil, err
	}
	defer done.close() // the machines' records say then what they need
	machines, err := bootable(e, done)
	if err != nil {
		return nil, err
	}
	for _, m := range machines {
		m.OnRunning = c.again
	}
	networks, err := newNetworks(done.manifest)
	if err != nil {
		return nil, err
	}
	g := group(e, done.manifest.Name)
	unlock, err := g.Lock(e.ctx, func() { e.ui.note("waiting: another meros starts or stops machines of %s", g.Name) })
	if err != nil {
		return nil, err
	}
	defer unlock()
	supervisor, err := supervisorOf(g)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	err = g.Start(e.ctx, supervisor, networks, machines, vm.StartOptions{
		Timeout: c.Wait,
		Note: func(machine, text string) {
			if machine == "" {
				e.ui.note("%s: %s", g.Name, text)
				return
			}
			e.ui.note("%s/%s %s", g.Name, machine, text)
		},
		Report: func(machine string) {
			e.ui.note("%s/%s ready after %s (meros connect %s %s)", g.Name, machine, seconds(time.Since(start)), g.Name, machine)
		},
	})
	return g, err
}

// withDependencies adds the machines that the named ones depend on and that do
// not run.
func (c *initCmd) withDependencies(e *env) error {
	if len(c.Machine) == 0 || c.Use != "" || c.again != vm.Keep {
		return nil
	}
	m, err := constellations.Find(e.root, c.Constellation)
	if err != nil {
		return usageIfMissing(err)
	}
	for i := 0; i < len(c.Machine); i++ {
		machine, err := m.Machine(c.Machine[i])
		if err != nil {
			return usageError{err}
		}
		for _, d := range machine.DependsOn {
			if slices.Contains(c.Machine, d) {
				continue
			}
			is, err := group(e, m.Name).Info(e.ctx, []string{d})
			if err != nil {
				return err
			}
			if is[0].PID == 0 {
				e.ui.note("%s/%s depends on %s, which is started, too", m.Name, machine.Name, d)
				c.Machine = append(c.Machine, d)
			}
		}
	}
	return nil
}

type initCmd struct {
	Constellation string        `arg:"" help:"Name of a directory below constellations/."`
	Machine       []string      `arg:"" optional:"" help:"Only these machines."`
	Wait          time.Duration `default:"5m" help:"Longest a machine may take until ssh answers."`
	Locked        bool          `help:"Fail instead of changing meros.lock."`
	Timeout       time.Duration `help:"Longest time one hook may take."`
	Use           givenImage    `placeholder:"IMAGE" help:"Boot the one machine from this image, which is never written to, instead of a base system."`

	again vm.OnRunning
}

// bootable turns built machines into ones that can be booted.
func bootable(e *env, b *built) ([]*vm.Machine, error) {
	var machines []*vm.Machine
	for _, m := range b.machines {
		path := func(n *graph.Node, output string) string { return b.store.Path(b.result.Outputs[n][output].Digest) }
		images, err := image.Chain(path(m.Image, "image"), path(m.Base, "image"))
		if err != nil {
			return nil, err
		}
		kernel := m.KernelPath
		if m.Kernel != nil {
			kernel = path(m.Kernel, "kernel")
		}
		var nics []vm.NIC
		for _, n := range m.Networks {
			nics = append(nics, vm.NIC{Tap: n.Label, Model: n.Model, MAC: stages.MAC(b.manifest.Name, m.Name, n)})
		}
		shares, err := sharesOf(b.manifest, m.Machine, e.root)
		if err != nil {
			return nil, err
		}
		var disks []vm.Disk
		for _, d := range m.Disks {
			disks = append(disks, vm.Disk{Label: d.Label, Image: path(d.Image, "image")})
		}
		root := ""
		if m.Used {
			l, err := image.ReadLayout(path(m.Base, "layout"))
			if err != nil {
				return nil, err
			}
			root = l.Arguments()
		}
		machines = append(machines, &vm.Machine{
			Root: root, Name: m.Name, Arch: m.Arch, Memory: m.Memory, CPUs: m.CPUs, KVM: m.KVM, Display: m.Display, Extra: m.QEMUArgs, User: m.User,
			Kernel: kernel, Initrd: path(m.Initrd, "initrd"), Images: images, MAC: stages.ManagementMAC(b.manifest.Name, m.Name),
			Disks: disks, NICs: nics, Shares: shares, After: m.DependsOn, Ready: m.Ready,
		})
	}
	return machines, nil
}

// sharesOf are the directories that a machine sees.
func sharesOf(m *constellations.Manifest, vmachine *constellations.Machine, root string) ([]vm.Share, error) {
	var all []vm.Share
	for i, mount := range vmachine.Mounts {
		tried := []string{mount.Source}
		if !filepath.IsAbs(mount.Source) {
			tried = []string{filepath.Join(root, mount.Source), filepath.Join(m.Dir, mount.Source)}
		}
		source := ""
		for _, t := range tried {
			if fi, err := os.Stat(t); err == nil && fi.IsDir() && source == "" {
				source = t
			}
		}
		if source == "" {
			return nil, usageError{fmt.Errorf("%s/%s: mount %s: there is no such directory (looked for %s)", m.Name, vmachine.Name, mount.Source, strings.Join(tried, " and "))}
		}
		abs, err := filepath.Abs(source)
		if err != nil {
			return nil, err
		}
		all = append(all, vm.Share{Source: abs, Tag: stages.MountTag(i), ReadOnly: mount.ReadOnly})
	}
	return all, nil
}
