// This file plans hooks that run in the booted machine.

package stages

import (
	"path/filepath"
	"strconv"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
)

const hooksVMRevision = 1

// HooksInVM reports whether the machine's hooks run in the machine itself.
func HooksInVM(vm *constellations.Machine) bool { return vm.Hooks.In == constellations.HooksInVM }

// HasHooksInVM reports whether the machine has hooks that run in the machine itself.
func HasHooksInVM(m *constellations.Manifest, vm *constellations.Machine) (bool, error) {
	if !HooksInVM(vm) {
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

// hooksVM replaces the machine's image by the one that hooks in the booted machine
// leave. What a kernel writes to a disk differs from run to run, so the node is
// impure.
func (pl *planner) hooksVM(pm *Machine, section *constellations.SectionLock, scripts []graph.Local) error {
	n := &graph.Node{
		Stage: "hooks-vm", Revision: hooksVMRevision, Name: pl.name(pm.Machine, "hooks in the machine"),
		Params: append([]graph.Param{
			epoch(section), {Name: ParamArch, Value: pm.Arch},
			{Name: ParamMemory, Value: strconv.FormatInt(pm.Memory, 10)}, {Name: ParamCPUs, Value: strconv.Itoa(pm.CPUs)}, // hooks see them
		}, pl.tools("qemu-system-"+pm.Arch)...),
		Hints: []graph.Param{{Name: HintTimeout, Value: pl.Timeout}, {Name: HintKVM, Value: string(pm.KVM)}},
		Inputs: []graph.Input{
			{Name: InImage, Node: pm.Image, Output: OutImage}, {Name: InBase, Node: pm.Base, Output: OutImage},
			{Name: InInitrd, Node: pm.Initrd, Output: OutInitrd},
		},
		Locals: scripts, Outputs: []string{OutImage, OutConsole}, Impure: true,
		Devices: []string{"/dev/kvm"}, Needs: graph.Needs{CPU: pm.CPUs, Memory: pm.Memory + 256<<20},
	}
	if pm.Foreign {
		n.Inputs = append(n.Inputs, graph.Input{Name: InLayout, Node: pm.Base, Output: OutLayout})
	}
	if pm.Hooks.Network {
		n.Params = append(n.Params, graph.Param{Name: ParamNetwork, Value: "user"})
		n.Network = runner.HostNetwork
		n.Devices = append(n.Devices, "/dev/net/tun")
	}
	if pm.Kernel != nil {
		n.Inputs = append(n.Inputs, graph.Input{Name: InKernel, Node: pm.Kernel, Output: OutKernel})
	} else {
		l, err := pl.file(InKernel, pm.KernelPath)
		if err != nil {
			return err
		}
		n.Locals = append(n.Locals, *l)
	}
	pm.Image = pl.plan.Add(n)
	return nil
}
