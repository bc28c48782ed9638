package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"meros/constellations"
	"meros/graph"
	"meros/runner/image"
	"meros/runner/vm"
	"meros/stages"
)

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
