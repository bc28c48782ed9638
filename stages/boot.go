// This file plans the boot check of a machine.

package stages

import (
	"strconv"
	"strings"
	"time"

	"meros/constellations"
	"meros/graph"
)

// Names of the plan and the step, see names.go.
const (
	ParamHostname = "hostname"
	ParamKVM      = "kvm"  // as the manifest has it, unless it is auto
	ParamQEMUArgs = "args" // further arguments, separated by zero bytes
	ParamUser     = "user" // that logs in

	InDisk = "disk " // begins the name of a further disk, before its label

	OutVerdict = "verdict" // JSON of a vm.Verdict
)

const bootRevision = 1

// boot returns the node that boots the machine once. Its verdict is cached.
func (pl *planner) boot(pm *Machine) (*graph.Node, error) {
	n := &graph.Node{
		Stage: "boot", Revision: bootRevision, Name: pl.name(pm.Machine, "boot check"),
		Params: append([]graph.Param{
			{Name: ParamArch, Value: pm.Arch}, {Name: ParamMemory, Value: strconv.FormatInt(pm.Memory, 10)},
			{Name: ParamCPUs, Value: strconv.Itoa(pm.CPUs)}, {Name: ParamUser, Value: pm.User}, {Name: ParamHostname, Value: pm.Name},
			{Name: ParamQEMUArgs, Value: strings.Join(pm.QEMUArgs, "\x00")},
		}, pl.tools("qemu-system-"+pm.Arch)...),
		Hints: []graph.Param{{Name: HintKVM, Value: string(pm.KVM)}},
		Inputs: []graph.Input{
			{Name: InImage, Node: pm.Image, Output: OutImage}, {Name: InBase, Node: pm.Base, Output: OutImage},
			{Name: InInitrd, Node: pm.Initrd, Output: OutInitrd},
		},
		Outputs: []string{OutVerdict, OutConsole},
		Devices: []string{"/dev/kvm"},
		Needs:   graph.Needs{CPU: pm.CPUs, Memory: pm.Memory + 256<<20},
	}
	if pm.KVM != constellations.KVMAuto {
		n.Params = append(n.Params, graph.Param{Name: ParamKVM, Value: string(pm.KVM)}) // each host decides what "auto" is
	}
	if pm.Foreign {
		n.Inputs = append(n.Inputs, graph.Input{Name: InLayout, Node: pm.Base, Output: OutLayout})
	}
	for _, d := range pm.Disks {
		n.Inputs = append(n.Inputs, graph.Input{Name: InDisk + d.Label, Node: d.Image, Output: OutImage})
	}
	if pm.Kernel != nil {
		n.Inputs = append(n.Inputs, graph.Input{Name: InKernel, Node: pm.Kernel, Output: OutKernel})
	} else {
		l, err := pl.file(InKernel, pm.KernelPath)
		if err != nil {
			return nil, err
		}
		n.Locals = []graph.Local{*l}
	}
	return pl.plan.Add(n), nil
}

// BootTimeout is how long a machine may take until it accepts a login, unless the
// user sets another limit. With an emulated processor systemd takes 40 s on an idle
// host.
const BootTimeout = 5 * time.Minute
