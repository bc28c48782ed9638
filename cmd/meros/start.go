// This file builds machines and starts them, for init and the verbs like it.

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

// startRequest says which machines to build and start.
type startRequest struct {
	request
	Wait      time.Duration // longest time a machine may take to become ready
	onRunning vm.OnRunning  // the effect on machines that already run
}

// start builds what is missing and boots the machines. An ordinary user's build
// runs in a user namespace; the machines start outside of it, where /dev/kvm and
// the network are.
func (r *startRequest) start(e *env) (*vm.Group, error) {
	if err := r.withDependencies(e); err != nil {
		return nil, err
	}
	r.ToRun = true
	m, chosen, err := r.load(e)
	if err == nil {
		err = canRun(e, m, chosen) // before the build spends time on it
	}
	if err != nil {
		return nil, err
	}
	// After a build in the namespace, this process only looks the results up.
	if r.quiet, err = e.inNamespace(r.args()...); err != nil {
		return nil, err
	}
	done, err := r.build(e)
	if err != nil {
		return nil, err
	}
	defer done.close() // from then on, the machines' records protect their files
	machines, err := bootable(e, done)
	if err != nil {
		return nil, err
	}
	for _, m := range machines {
		m.OnRunning = r.onRunning
	}
	networks, err := newNetworks(done.manifest)
	if err != nil {
		return nil, err
	}
	g := e.group(done.manifest.Name)
	unlock, err := lockGroup(e, g)
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
		Timeout: r.Wait,
		Note: func(machine, text string) {
			if machine == "" {
				e.ui.note("%s: %s", g.Name, text)
				return
			}
			e.ui.note("%s/%s %s", g.Name, machine, text)
		},
		Report: func(machine string) {
			e.ui.note("%s/%s ready after %s; `meros connect %s %s` opens a shell", g.Name, machine, seconds(time.Since(start)), g.Name, machine)
		},
	})
	return g, err
}

// withDependencies adds the machines that the named ones depend on and that do
// not run.
func (r *startRequest) withDependencies(e *env) error {
	if len(r.Machines) == 0 || r.Use != "" || r.onRunning != vm.Keep {
		return nil
	}
	m, err := constellations.Find(e.root, r.Constellation)
	if err != nil {
		return usageIfMissing(err)
	}
	for i := 0; i < len(r.Machines); i++ {
		machine, err := m.Machine(r.Machines[i])
		if err != nil {
			return usageError{err}
		}
		for _, d := range machine.DependsOn {
			if slices.Contains(r.Machines, d) {
				continue
			}
			is, err := e.group(m.Name).Info(e.ctx, []string{d})
			if err != nil {
				return err
			}
			if is[0].PID == 0 {
				e.ui.note("%s/%s depends on %s: starting it too", m.Name, machine.Name, d)
				r.Machines = append(r.Machines, d)
			}
		}
	}
	return nil
}

// bootable describes the built machines for [vm.Group].
func bootable(e *env, b *built) ([]*vm.Machine, error) {
	var machines []*vm.Machine
	for _, m := range b.machines {
		path := func(n *graph.Node, output string) string { return b.store.Path(b.result.Outputs[n][output].Digest) }
		images, err := image.Chain(path(m.Image, stages.OutImage), path(m.Base, stages.OutImage))
		if err != nil {
			return nil, err
		}
		kernel := m.KernelPath
		if m.Kernel != nil {
			kernel = path(m.Kernel, stages.OutKernel)
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
			disks = append(disks, vm.Disk{Label: d.Label, Image: path(d.Image, stages.OutImage)})
		}
		root := ""
		if m.Foreign {
			l, err := image.ReadLayout(path(m.Base, stages.OutLayout))
			if err != nil {
				return nil, err
			}
			root = l.Arguments()
		}
		machines = append(machines, &vm.Machine{
			Root: root, Name: m.Name, Arch: m.Arch, Memory: m.Memory, CPUs: m.CPUs, KVM: m.KVM, Display: m.Display, Extra: m.QEMUArgs, User: m.User,
			Kernel: kernel, Initrd: path(m.Initrd, stages.OutInitrd), Images: images, MAC: stages.ManagementMAC(b.manifest.Name, m.Name),
			Disks: disks, NICs: nics, Shares: shares, After: m.DependsOn, Ready: m.Ready,
		})
	}
	return machines, nil
}

// sharesOf returns the host directories that the manifest mounts in a machine.
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
			return nil, usageError{fmt.Errorf("%s/%s: mount %s: no such directory (tried %s)", m.Name, vmachine.Name, mount.Source, strings.Join(tried, " and "))}
		}
		abs, err := filepath.Abs(source)
		if err != nil {
			return nil, err
		}
		all = append(all, vm.Share{Source: abs, Tag: stages.MountTag(i), ReadOnly: mount.ReadOnly})
	}
	return all, nil
}
