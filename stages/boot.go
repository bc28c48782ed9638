package stages

import (
	"strconv"
	"strings"
	"time"

	"meros/constellations"
	"meros/graph"
)

const bootRevision = 1

// boot is the check that a machine comes up: a cached verdict.
func (pl *planner) boot(pm *Machine) (*graph.Node, error) {
	n := &graph.Node{
		Stage: "boot", Revision: bootRevision, Name: pl.name(pm.Machine, "boot check"),
		Params: append([]graph.Param{
			{Name: "arch", Value: pm.Arch}, {Name: "memory", Value: strconv.FormatInt(pm.Memory, 10)},
			{Name: "cpus", Value: strconv.Itoa(pm.CPUs)}, {Name: "user", Value: pm.User}, {Name: "hostname", Value: pm.Name},
			{Name: "args", Value: strings.Join(pm.QEMUArgs, "\x00")},
		}, pl.tools("qemu-system-"+pm.Arch)...),
		Hints: []graph.Param{{Name: "kvm", Value: string(pm.KVM)}},
		Inputs: []graph.Input{
			{Name: "image", Node: pm.Image, Output: "image"}, {Name: "base", Node: pm.Base, Output: "image"},
			{Name: "initrd", Node: pm.Initrd, Output: "initrd"},
		},
		Outputs: []string{"verdict", "console"},
		Devices: []string{"/dev/kvm"},
		Needs:   graph.Needs{CPU: pm.CPUs, Memory: pm.Memory + 256<<20},
	}
	if pm.KVM != constellations.KVMAuto {
		n.Params = append(n.Params, graph.Param{Name: "kvm", Value: string(pm.KVM)}) // "auto" is for each host to decide
	}
	if pm.Used {
		n.Inputs = append(n.Inputs, graph.Input{Name: "layout", Node: pm.Base, Output: "layout"})
	}
	for _, d := range pm.Disks {
		n.Inputs = append(n.Inputs, graph.Input{Name: "disk " + d.Label, Node: d.Image, Output: "image"})
	}
	if pm.Kernel != nil {
		n.Inputs = append(n.Inputs, graph.Input{Name: "kernel", Node: pm.Kernel, Output: "kernel"})
	} else {
		l, err := pl.file("kernel", pm.KernelPath)
		if err != nil {
			return nil, err
		}
		n.Locals = []graph.Local{*l}
	}
	return pl.plan.Add(n), nil
}

// BootTimeout is how long a machine may take until it can be logged in to,
// where nothing else is said: systemd in an emulated processor takes 40 s on
// an idle host.
const BootTimeout = 5 * time.Minute
