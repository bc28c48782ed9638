package stages

import (
	"path/filepath"
	"strconv"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
)

const hooksVMRevision = 1

// InMachine tells whether the manifest has the machine's hooks run in itself.
func InMachine(vm *constellations.Machine) bool { return vm.Hooks.In == constellations.HooksInVM }

// HasHooksInMachine tells whether there are any that do.
func HasHooksInMachine(m *constellations.Manifest, vm *constellations.Machine) (bool, error) {
	if !InMachine(vm) {
		return false, nil
	}
	for _, dir := range sources(vm) {
		names, err := scripts(filepath.Join(m.Dir, dir, "hooks"))
		if err != nil || len(names) > 0 {
			return true, err
		}
	}
	return false, nil
}

// hooksInMachine makes the image what it is after the hooks have run in the
// booted machine. What a kernel writes to a disk differs from one run to the
// next, so the result is impure.
func (pl *planner) hooksInMachine(pm *Machine, section *constellations.SectionLock, scripts []graph.Local) error {
	n := &graph.Node{
		Stage: "hooks-vm", Revision: hooksVMRevision, Name: pl.name(pm.Machine, "hooks in the machine"),
		Params: append([]graph.Param{
			epoch(section), {Name: "arch", Value: pm.Arch},
			{Name: "memory", Value: strconv.FormatInt(pm.Memory, 10)}, {Name: "cpus", Value: strconv.Itoa(pm.CPUs)}, // hooks see them
		}, pl.tools("qemu-system-"+pm.Arch)...),
		Hints: []graph.Param{{Name: "timeout", Value: pl.Timeout}, {Name: "kvm", Value: string(pm.KVM)}},
		Inputs: []graph.Input{
			{Name: "image", Node: pm.Image, Output: "image"}, {Name: "base", Node: pm.Base, Output: "image"},
			{Name: "initrd", Node: pm.Initrd, Output: "initrd"},
		},
		Locals: scripts, Outputs: []string{"image", "console"}, Impure: true,
		Devices: []string{"/dev/kvm"}, Needs: graph.Needs{CPU: pm.CPUs, Memory: pm.Memory + 256<<20},
	}
	if pm.Used {
		n.Inputs = append(n.Inputs, graph.Input{Name: "layout", Node: pm.Base, Output: "layout"})
	}
	if pm.Hooks.Network {
		n.Params = append(n.Params, graph.Param{Name: "network", Value: "user"})
		n.Network = runner.HostNetwork
		n.Devices = append(n.Devices, "/dev/net/tun")
	}
	if pm.Kernel != nil {
		n.Inputs = append(n.Inputs, graph.Input{Name: "kernel", Node: pm.Kernel, Output: "kernel"})
	} else {
		l, err := pl.file("kernel", pm.KernelPath)
		if err != nil {
			return err
		}
		n.Locals = append(n.Locals, *l)
	}
	pm.Image = pl.plan.Add(n)
	return nil
}
