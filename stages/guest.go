// This file gives a node what it needs to boot the machine: a kernel, an initrd and
// QEMU.

package stages

import (
	"meros/graph"
)

// inGuest lets the node of a foreign image boot the machine, if the manifest has its
// hooks run there. The machine's kernel then reads and writes file systems that
// nothing else can. What a kernel writes differs from run to run, so the node is
// impure.
func (pl *planner) inGuest(pm *Machine, n *graph.Node) error {
	if !HooksInVM(pm.Machine) {
		return nil
	}
	n.Impure = true
	if n.Param(ParamArch) == "" {
		n.Params = append(n.Params, graph.Param{Name: ParamArch, Value: pm.Arch})
	}
	n.Params = append(n.Params, pl.tools("qemu-system-"+pm.Arch)...)
	n.Hints = append(n.Hints, graph.Param{Name: HintKVM, Value: string(pm.KVM)})
	n.Devices = append(n.Devices, "/dev/kvm")
	n.Needs.Memory += GuestMemory + 256<<20 // QEMU itself takes some, too
	n.Inputs = append(n.Inputs, graph.Input{Name: InInitrd, Node: pm.Initrd, Output: OutInitrd})
	if pm.Kernel != nil {
		n.Inputs = append(n.Inputs, graph.Input{Name: InKernel, Node: pm.Kernel, Output: OutKernel})
		return nil
	}
	l, err := pl.file(InKernel, pm.KernelPath)
	if err == nil {
		n.Locals = append(n.Locals, *l)
	}
	return err
}

// GuestMemory is the memory of a machine that reads or writes a file system for a stage,
// bytes. More would not change the result.
const GuestMemory = 768 << 20
