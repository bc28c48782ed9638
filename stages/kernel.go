// This file plans the kernel of a distribution, and chooses between it, a built one
// and a file.

package stages

import (
	"meros/constellations"
	"meros/graph"
	"meros/runner/hint"
)

// Names of the plan and the step, see names.go.
const (
	ParamModules = "modules" // kernel modules that the machine needs, separated by spaces
)

const kernelRevision = 1

// kernelModules lists the modules with which a machine finds its disk, its network
// and the host. A kernel that has them built in needs none.
var kernelModules = []string{
	"virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng",
	"crc32c_generic", "ext4", // ext4 finds its checksum by name, not by a dependency
	"af_packet", "overlay", "autofs4", "9p", "9pnet_virtio", "virtiofs", "fuse", "nf_tables", "bridge", "tun", "configfs", "dmi-sysfs", "qemu_fw_cfg",
	"binfmt_misc", "button", "evdev", // interpreters of binfmt.d; the power button, and its events for logind
}

// kernel sets the machine's kernel. It adds a node for the kernel of a distribution;
// a built kernel is in the plan already.
func (pl *planner) kernel(pm *Machine, section *constellations.SectionLock) error {
	switch pm.Machine.Kernel.Kind {
	case constellations.KernelDistro:
		if len(section.Kernel) == 0 {
			return pl.notLocked("its kernel", pm.Machine)
		}
		node := &graph.Node{
			Stage: "kernel", Revision: kernelRevision, Name: baseSystem(pm.Machine) + " kernel",
			Params:  []graph.Param{epoch(section), {Name: ParamModules, Value: modules(pm.Machine)}},
			Inputs:  pl.fetchAll(section, section.Kernel),
			Outputs: []string{OutKernel, OutModules, OutRelease, OutConfig},
		}
		if pm.Distribution == "alpine" {
			node.Params = append(node.Params, graph.Param{Name: ParamFormat, Value: "apk"})
		}
		pm.Kernel = pl.plan.Add(node)
	case constellations.KernelImage:
		file, err := pl.find("kernel", pm.Machine.Kernel.Location)
		if err != nil {
			return hint.Add(err, "`kernel: distro` takes the distribution's kernel")
		}
		pm.KernelPath = file
	default:
		pm.Kernel = pm.Built.Compile
	}
	return nil
}
