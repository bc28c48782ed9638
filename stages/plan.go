// Package stages turns a manifest into a plan. One file for each stage has the
// functions that make its nodes. They do no work: package step does it, in the file
// of the same name.
//
// This is the path of one machine, each arrow an input:
//
//	fetch... -> bootstrap -> packages -> pack (base image, shared)
//	                  |          |         \
//	                  +----------+-> overlay -> hooks      pack (difference) -> disk
//	                                     \        \-> personalize /
//	fetch -> kernel -> initrd
//
//	kernel, initrd, pack, format (further disks) -> boot
//
// Other stages may replace bootstrap and packages. "alpine" is Alpine's mini root
// file system, and "apk" its packages. "use" is a foreign image, and "oci" a layer of
// a container image.
//
// Each stage has a revision. It must be increased whenever the stage gives other
// bytes for the same key text.
package stages

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"meros/constellations"
	"meros/graph"
	"meros/runner/hint"
)

// Options are the inputs of a plan besides the manifest and its lock.
type Options struct {
	Root       string            // directory that holds constellations/ and data/
	Self       string            // path of the program
	Host       string            // architecture of this host, as QEMU names it
	Tools      map[string]string // identity of each host program that shapes an output, by name
	URLs       func(section *constellations.SectionLock, p constellations.Package) []string
	StatCache  *graph.StatCache
	OCI        func(path, tag, arch string) ([]OCILayer, error) // reads a container image; arch is Go's name
	Timeout    string                                           // longest a hook may take, as time.Duration prints it; "" does not limit it
	RootfsOnly bool                                             // leave out kernel and initrd
	Boot       bool                                             // boot each machine once
}

// Machine holds the nodes of one machine in a plan.
type Machine struct {
	*constellations.Machine
	Constellation string
	Base          *graph.Node   // image below Image
	Layers        []*graph.Node // of its root file system, the lowest first
	Foreign       bool          // Base is a foreign image, with the output "layout"
	Image         *graph.Node
	Disk          *graph.Node // the self-contained image in data/disks
	DiskPath      string
	Export        *graph.Node  // the file beside it in the format that the manifest names, or nil
	Disks         []Disk       // further ones
	Kernel        *graph.Node  // with the output "kernel"; nil if the kernel is a file or is not needed
	Built         *BuiltKernel // nil if the kernel is not built
	KernelPath    string
	Initrd        *graph.Node // nil with --rootfs-only
	Boot          *graph.Node // nil without a boot check
	Named         []string    // files and directories that the manifest names; the first machine has those that several share
}

// Targets returns the nodes that a build of the machine has to make.
func (m *Machine) Targets() []*graph.Node {
	t := []*graph.Node{m.Disk, m.Image, m.Base}
	for _, d := range m.Disks {
		t = append(t, d.Image)
	}
	for _, n := range []*graph.Node{m.Export, m.Kernel, m.Initrd, m.Boot} {
		if n != nil {
			t = append(t, n)
		}
	}
	return t
}

// planner makes the nodes of one constellation.
type planner struct {
	Options
	plan   *graph.Plan
	m      *constellations.Manifest
	lock   *constellations.Lock
	locals map[string]*graph.Local // by path; common/ is read once for all machines
	named  []string
	bases  map[string][]*graph.Node // by all that a base depends on; machines share bases, which have hundreds of packages
}

func newPlanner(p *graph.Plan, m *constellations.Manifest, lock *constellations.Lock, o Options) *planner {
	return &planner{Options: o, plan: p, m: m, lock: lock, locals: make(map[string]*graph.Local), bases: make(map[string][]*graph.Node)}
}

// Plan adds the nodes of the machines of m to p. The lock must pin everything that
// comes from a network, see [Needs].
func Plan(p *graph.Plan, m *constellations.Manifest, machines []*constellations.Machine, lock *constellations.Lock, o Options) ([]*Machine, error) {
	pl := newPlanner(p, m, lock, o)
	var out []*Machine
	for _, vm := range machines {
		pl.named = nil
		pm, err := pl.machine(vm)
		if err != nil {
			return nil, fmt.Errorf("plan %s/%s: %w", m.Name, vm.Name, err)
		}
		pm.Named = pl.named
		out = append(out, pm)
	}
	return out, nil
}

// machine adds the nodes of one machine.
func (pl *planner) machine(vm *constellations.Machine) (*Machine, error) {
	section := pl.lock.Section(vm.Section())
	if section == nil {
		return nil, pl.unlocked(vm.Suite + " " + vm.Arch)
	}
	pm := &Machine{Machine: vm, Constellation: pl.m.Name}
	if HooksInVM(vm) { // the machine may have to boot to read its base
		if err := pl.kernels(pm, section); err != nil {
			return nil, err
		}
	}
	lower, err := pl.lower(pm, section)
	if err != nil {
		return nil, err
	}
	if err := pl.builtKernel(pm); err != nil {
		return nil, err
	}
	upper, err := pl.upper(pm, section, lower)
	if err != nil {
		return nil, err
	}
	pm.Layers = append(append([]*graph.Node(nil), lower...), upper...)
	if pm.Image, err = pl.packDelta(pm, section, lower, upper); err != nil {
		return nil, err
	}
	var inVM []graph.Local
	if HooksInVM(vm) {
		if inVM, err = pl.hookScripts(vm); err != nil {
			return nil, err
		}
	}
	if len(inVM) > 0 {
		if err := pl.hooksVM(pm, section, inVM); err != nil {
			return nil, err
		}
	}
	pm.DiskPath = filepath.Join(pl.Root, "data", "disks", pl.m.Name+"-"+vm.Name+".qcow2")
	pm.Disk = pl.disk(vm, pm)
	if pm.Disks, err = pl.disks(vm); err != nil {
		return nil, err
	}
	if vm.Format != "" && vm.Format != "qcow2" {
		if len(inVM) > 0 && OfTree(vm.Format) {
			return nil, fmt.Errorf("format %s: %w", vm.Format, ErrOnlyDisk)
		}
		file := strings.TrimSuffix(pm.DiskPath, ".qcow2") + ExportEnding(vm.Format, vm.Compress)
		pm.Export = Export(pl.plan, pm, pl.Options, vm.Format, vm.Compress, file)
	}
	if pl.RootfsOnly {
		pm.Kernel, pm.Initrd = nil, nil // a node that runs hooks in the machine has them as inputs
		return pm, nil
	}
	if pm.Initrd == nil {
		if err := pl.kernels(pm, section); err != nil {
			return nil, err
		}
	}
	if pl.Boot || vm.BootCheck {
		pm.Boot, err = pl.boot(pm)
	}
	return pm, err
}

// builtKernel adds the nodes of a kernel that is built.
func (pl *planner) builtKernel(pm *Machine) (err error) {
	vm := pm.Machine
	if pm.Built != nil || !vm.Kernel.Built() || pl.RootfsOnly && !vm.Kernel.Headers && !HooksInVM(vm) {
		return nil
	}
	if pm.Built, err = pl.buildKernel(vm); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	return nil
}

// kernels adds the kernel and the initrd.
func (pl *planner) kernels(pm *Machine, section *constellations.SectionLock) error {
	if err := pl.builtKernel(pm); err != nil {
		return err
	}
	if err := pl.kernel(pm, section); err != nil {
		return err
	}
	return pl.initrd(pm)
}

// lower returns the layers that a machine begins with, and sets their image. They
// come from a base system, a container image or a foreign disk. Machines may share
// them.
func (pl *planner) lower(pm *Machine, section *constellations.SectionLock) ([]*graph.Node, error) {
	if reference, ok := strings.CutPrefix(pm.Machine.Base, OCIPrefix); ok {
		lower, err := pl.oci(pm.Machine, section, reference)
		if err == nil {
			pm.Base = pl.packBase(pm.Machine, section, lower)
		}
		return lower, err
	}
	if reference, ok := constellations.RegistryReference(pm.Machine.Base); ok {
		lower, err := pl.registry(pm.Machine, section, reference)
		if err == nil {
			pm.Base = pl.packBase(pm.Machine, section, lower)
		}
		return lower, err
	}
	if pm.Machine.Base != "" {
		use, err := pl.use(pm, section)
		pm.Base, pm.Foreign = use, true
		return []*graph.Node{use}, err
	}
	lower, err := pl.base(pm.Machine, section)
	if err == nil {
		pm.Base = pl.packBase(pm.Machine, section, lower)
	}
	return lower, err
}

// upper returns the layers above the shared base, in order. A kernel's modules come
// last: nothing depends on them. Its headers come first, so that hooks see them.
func (pl *planner) upper(pm *Machine, section *constellations.SectionLock, lower []*graph.Node) ([]*graph.Node, error) {
	vm := pm.Machine
	below := append([]*graph.Node(nil), lower...)
	var upper []*graph.Node
	if vm.Kernel.Headers {
		below, upper = append(below, pm.Built.Compile), append(upper, pm.Built.Compile)
	}
	overlay, err := pl.overlay(vm, section, below)
	if err != nil {
		return nil, err
	}
	if overlay != nil {
		below, upper = append(below, overlay), append(upper, overlay)
	}
	var hooks *graph.Node
	if !HooksInVM(vm) {
		if hooks, err = pl.hooks(vm, section, below); err != nil {
			return nil, err
		}
	}
	if hooks != nil {
		below, upper = append(below, hooks), append(upper, hooks)
	}
	upper = append(upper, pl.personalize(pm, section, below, cmp.Or(hooks, overlay), hooks != nil || overlay != nil && pl.includes(vm, "etc/hosts")))
	if pm.Built != nil && pm.Built.Modules && !vm.Kernel.Headers {
		upper = append(upper, pm.Built.Compile)
	}
	return upper, nil
}

// name returns the name of a node that belongs to one machine.
func (pl *planner) name(vm *constellations.Machine, what string) string {
	return pl.m.Name + "/" + vm.Name + " " + what
}

// trees returns the nodes' layers as unpacked inputs.
func trees(name string, nodes []*graph.Node) []graph.Input {
	in := make([]graph.Input, len(nodes))
	for i, n := range nodes {
		in[i] = graph.Input{Name: name, Node: n, Output: OutLayer, Form: graph.Tree}
	}
	return in
}

// epoch returns the parameter for the time that stands for now in everything built
// from a section of the lock. It is the time of the section's newest archive index.
func epoch(section *constellations.SectionLock) graph.Param {
	return graph.Param{Name: ParamEpoch, Value: strconv.FormatInt(section.Date.Unix(), 10)}
}

// foreign returns the parameters of a stage that runs the machine's programs: none if
// the host runs them itself.
func (pl *planner) foreign(vm *constellations.Machine) []graph.Param {
	if vm.Arch == pl.Host {
		return nil
	}
	return append([]graph.Param{{Name: ParamForeign, Value: vm.Arch}}, pl.tools(emulator+vm.Arch)...)
}

// tools returns the identities of host programs as parameters.
func (pl *planner) tools(names ...string) []graph.Param {
	var ps []graph.Param
	for _, n := range names {
		ps = append(ps, graph.Param{Name: ParamTool + n, Value: pl.Tools[n]})
	}
	return ps
}

// unlocked returns the error for a part of the plan that the lock does not pin.
func (pl *planner) unlocked(what string) error {
	return hint.Add(fmt.Errorf("the lock does not have %s", what), "`meros lock %s` adds it", pl.m.Name)
}

// notLocked returns the error for a part of one machine that the lock, which pins the
// rest of it, does not have.
func (pl *planner) notLocked(what string, vm *constellations.Machine) error {
	return hint.Add(fmt.Errorf("the lock does not have %s", what), "`meros update %s %s` adds it", pl.m.Name, vm.Name)
}

// otherDigest returns the error for a file whose digest in the manifest is not the one
// in the lock.
func (pl *planner) otherDigest(file, manifest, lock string) error {
	return hint.Add(fmt.Errorf("%s has the digest %.12s in the manifest and %.12s in the lock", file, manifest, lock), "`meros update %s` locks the manifest's", pl.m.Name)
}
