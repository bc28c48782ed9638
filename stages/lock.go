// This file lists everything that a lock has to pin for a plan.

package stages

import (
	"meros/constellations"
	"meros/runner/arch"
)

// Needs lists everything that the machines need from a network. A lock has to pin it.
func Needs(machines []*constellations.Machine) []constellations.Need {
	var needs []constellations.Need
	for _, vm := range machines {
		needs = append(needs, KernelNeeds(vm)...)
		if constellations.ImageURL(vm.Base) {
			needs = append(needs, constellations.Need{Machine: vm.Name, Source: &constellations.Source{Kind: constellations.SourceImage, URL: vm.Base, SHA256: vm.BaseSHA256}})
		}
		for _, d := range vm.Disks {
			if constellations.ImageURL(d.Base) {
				needs = append(needs, constellations.Need{Machine: vm.Name, Source: &constellations.Source{Kind: constellations.SourceImage, URL: d.Base}})
			}
		}
		if constellations.OfRegistry(vm.Base) {
			needs = append(needs, constellations.Need{Machine: vm.Name, Source: &constellations.Source{Kind: constellations.SourceRegistry, URL: vm.Base, Ref: arch.Go(vm.Arch)}})
		}
		base := constellations.Need{Section: vm.Section(), Machine: vm.Name}
		needs = append(needs, base)
		if len(vm.Packages) > 0 {
			with := base
			with.Packages = vm.Packages
			needs = append(needs, with)
		}
	}
	return needs
}

// AllNeeds lists the needs of all machines of a constellation.
func AllNeeds(m *constellations.Manifest) []constellations.Need {
	var all []*constellations.Machine
	for i := range m.Machines {
		all = append(all, &m.Machines[i])
	}
	return Needs(all)
}

// KernelNeeds lists what the machine's kernel alone needs from a network: its source
// and its compilers. It returns nil if the kernel is not built.
func KernelNeeds(vm *constellations.Machine) []constellations.Need {
	if !vm.Kernel.Built() {
		return nil
	}
	tools := toolchain(vm)
	base := constellations.Need{Section: tools.Section(), Machine: vm.Name}
	with := base
	with.Packages = tools.Packages
	needs := []constellations.Need{base, with}
	switch k := vm.Kernel; k.Kind {
	case constellations.KernelDebian:
		single := base
		single.Package = k.Location
		needs = append(needs, single)
	case constellations.KernelGit, constellations.KernelTarball:
		needs = append(needs, constellations.Need{Machine: vm.Name, Source: &constellations.Source{Kind: k.Kind, URL: k.Location, Ref: k.Ref, SHA256: k.SHA256}})
	}
	return needs
}
