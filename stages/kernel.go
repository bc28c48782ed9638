package stages

import (
	"fmt"

	"meros/constellations"
	"meros/graph"
)

// Names of the plan and the step, see names.go.
const (
	ParamModules = "modules" // kernel modules that the machine needs, separated by spaces
)

const kernelRevision = 1

// kernelModules are what a machine of ours needs to find its disk, its
// network and the host, where the kernel does not have them built in.
var kernelModules = []string{
	"virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng",
	"crc32c_generic", "ext4", // ext4 finds its checksum by name, not by a dependency
	"af_packet", "overlay", "autofs4", "9p", "9pnet_virtio", "virtiofs", "fuse", "nf_tables", "bridge", "tun", "configfs", "dmi-sysfs", "qemu_fw_cfg",
	"binfmt_misc", "button", "evdev", // interpreters by binfmt.d; the power button, and how logind hears of it
}

// kernel adds the machine's kernel, unless it is built or a file.
func (pl *planner) kernel(pm *Machine, section *constellations.SectionLock) error {
	switch pm.Machine.Kernel.Kind {
	case constellations.KernelDistro:
		if len(section.Kernel) == 0 {
			return fmt.Errorf("the lock has no kernel (meros update %s %s)", pl.m.Name, pm.Name)
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
			return fmt.Errorf("%w; \"kernel: distro\" takes the distribution's", err)
		}
		pm.KernelPath = file
	default:
		pm.Kernel = pm.Built.Compile
	}
	return nil
}
