package stages

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
)

const (
	kernelRevision = 1
	initrdRevision = 1
	bootRevision   = 1
)

// kernelModules are what a machine of ours needs to find its disk, its
// network and the host, where the kernel does not have them built in.
var kernelModules = []string{
	"virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng",
	"crc32c_generic", "ext4", // ext4 finds its checksum by name, not by a dependency
	"af_packet", "overlay", "autofs4", "9p", "9pnet_virtio", "virtiofs", "fuse", "nf_tables", "bridge", "tun", "configfs", "dmi-sysfs", "qemu_fw_cfg",
	"binfmt_misc", "button", "evdev", // interpreters by binfmt.d; the power button, and how logind hears of it
}

// kernel adds the machine's kernel and the initrd that brings up its root.
func (pl *planner) kernel(pm *Machine, section *constellations.SectionLock) error {
	initrd := &graph.Node{
		Stage: "initrd", Revision: initrdRevision, Name: "initrd without modules", Outputs: []string{"initrd"},
	}
	switch pm.Machine.Kernel.Kind {
	case constellations.KernelDistro:
		if len(section.Kernel) == 0 {
			return fmt.Errorf("the lock has no kernel (meros update %s %s)", pl.m.Name, pm.Name)
		}
		node := &graph.Node{
			Stage: "kernel", Revision: kernelRevision, Name: baseSystem(pm.Machine) + " kernel",
			Params:  []graph.Param{epoch(section), {Name: "modules", Value: modules(pm.Machine)}},
			Inputs:  pl.fetchAll(section, section.Kernel),
			Outputs: []string{"kernel", "modules", "release", "config"},
		}
		if pm.Distribution == "alpine" {
			node.Params = append(node.Params, graph.Param{Name: "format", Value: "apk"})
		}
		pm.Kernel = pl.plan.Add(node)
		initrd.Name = baseSystem(pm.Machine) + " initrd"
		initrd.Inputs = []graph.Input{{Name: "modules", Node: pm.Kernel, Output: "modules", Form: graph.Tree}}
	case constellations.KernelImage:
		file, err := pl.find("kernel", pm.Machine.Kernel.Location)
		if err != nil {
			return fmt.Errorf("%w; \"kernel: distro\" takes the distribution's", err)
		}
		pm.KernelPath = file
	default:
		pm.Kernel = pm.Built.Compile
	}
	program, err := pl.program(pm.Arch)
	if err != nil {
		return err
	}
	self, err := pl.file("init", program)
	if err != nil {
		return err
	}
	initrd.Locals = []graph.Local{*self}
	libraries, err := runner.Libraries(program)
	if err != nil {
		return fmt.Errorf("the libraries of %s: %w", program, err)
	}
	for _, name := range slices.Sorted(maps.Keys(libraries)) {
		l, err := pl.file("library "+name, libraries[name])
		if err != nil {
			return err
		}
		initrd.Locals = append(initrd.Locals, *l)
	}
	pm.Initrd = pl.plan.Add(initrd)
	return nil
}

// goArch are Go's names of architectures, where QEMU has others.
var goArch = map[string]string{"x86_64": "amd64", "i386": "386", "aarch64": "arm64", "ppc64": "ppc64le"}

// GoArch is Go's name of an architecture, which OCI uses too.
func GoArch(arch string) string {
	if n, ok := goArch[arch]; ok {
		return n
	}
	return arch
}

// program is the file of meros for machines of an architecture: this program,
// or the one beside it that was built for them.
func (pl *planner) program(arch string) (string, error) {
	if arch == pl.Host {
		return pl.Self, nil
	}
	name := "meros-" + arch
	file := filepath.Join(filepath.Dir(pl.Self), name)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if file, err := exec.LookPath(name); err == nil {
		return file, nil
	}
	without := "; --rootfs-only does without"
	if pl.RootfsOnly {
		without = "; hooks that run in the sandbox do without"
	}
	return "", &NoProgramError{arch, file, without}
}

// NoProgramError is that meros itself is not there, built for the architecture
// of a machine, whose first program it is.
type NoProgramError struct{ Arch, File, without string }

func (e *NoProgramError) Error() string {
	return fmt.Sprintf("the first program of a machine of %s is meros itself, built for it, and there is no %s (in meros' source: CGO_ENABLED=0 GOARCH=%s go build -o %[2]s ./cmd/meros%[4]s)", e.Arch, e.File, GoArch(e.Arch), e.without)
}

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
