package stages

import (
	"meros/graph"
)

// inGuest lets a node of an image start the machine, if the manifest has hooks
// run in there: that is how a file system is read and written that only a kernel
// knows. What a kernel writes is never the same, so the node is impure.
func (pl *planner) inGuest(pm *Machine, n *graph.Node) error {
	if !InMachine(pm.Machine) {
		return nil
	}
	n.Impure = true
	if n.Param(ParamArch) == "" {
		n.Params = append(n.Params, graph.Param{Name: ParamArch, Value: pm.Arch})
	}
	n.Params = append(n.Params, pl.tools("qemu-system-"+pm.Arch)...)
	n.Hints = append(n.Hints, graph.Param{Name: HintKVM, Value: string(pm.KVM)})
	n.Devices = append(n.Devices, "/dev/kvm")
	n.Needs.Memory += guestMemory
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

// guestMemory is what QEMU takes for such a machine, bytes.
const guestMemory = 1 << 30
