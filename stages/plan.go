// Package stages turns what a manifest says into a plan: one file for each
// phase of a build, each with the functions that make its nodes. A stage
// returns a node and does no work.
//
// The way of one machine, each arrow an input:
//
//	fetch... -> bootstrap -> packages -> pack (base image, shared)
//	                  |          |         \
//	                  +----------+-> overlay -> hooks      pack (difference) -> disk
//	                                     \        \-> personalize /
//	fetch -> kernel -> initrd
//
// Alpine's mini root file system ("alpine") and packages ("apk") stand in the
// place of bootstrap and packages, and so do an image ("use") and the layers of
// an image of containers ("oci").
//
//	kernel, initrd, pack, format (further disks) -> boot
//
// Package step does the work of a stage, in the file of the same name.
package stages

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"meros/constellations"
	"meros/graph"
)

// Options are what a plan depends on besides the manifest and its lock.
type Options struct {
	Root       string            // directory that holds constellations/ and data/
	Self       string            // path of the program
	Host       string            // architecture of this host, as QEMU names it
	Tools      map[string]string // identity of each host program that shapes an output, by name
	URLs       func(section *constellations.SectionLock, p constellations.Package) []string
	StatCache  *graph.StatCache
	OCI        func(path, tag, arch string) ([]OCILayer, error) // reads an image of containers; arch is Go's name
	Timeout    string                                           // longest a hook may take, as time.Duration prints it; "" is no limit
	RootfsOnly bool                                             // leave out kernel and initrd
	Boot       bool                                             // boot each machine once
}

// Machine is what a plan gives for one machine.
type Machine struct {
	*constellations.Machine
	Constellation string
	Base          *graph.Node   // image that Image is a difference to
	Layers        []*graph.Node // of its root file system, the lowest first
	Used          bool          // Base is somebody else's image, with the output "layout"
	Image         *graph.Node
	Disk          *graph.Node // the self-contained image in data/disks
	DiskPath      string
	Export        *graph.Node  // the form beside it that the manifest asks for, or nil
	Disks         []Disk       // further ones
	Kernel        *graph.Node  // with the output "kernel"; nil if the kernel is a file, or not wanted
	Built         *BuiltKernel // nil if the kernel is not built
	KernelPath    string
	Initrd        *graph.Node // nil with --rootfs-only
	Boot          *graph.Node // nil if it is not to be booted
	Named         []string    // files and directories that the manifest names; what machines share is of the first
}

// Targets are the last nodes of the machine.
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
	bases  map[string][]*graph.Node // by what makes a base; it has hundreds of packages, machines share it
}

func newPlanner(p *graph.Plan, m *constellations.Manifest, lock *constellations.Lock, o Options) *planner {
	return &planner{Options: o, plan: p, m: m, lock: lock, locals: make(map[string]*graph.Local), bases: make(map[string][]*graph.Node)}
}

// Plan adds the nodes of the machines of m to p. All that comes from a
// network must be in lock: see [Needs].
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

// machine is the way of one machine through the stages.
func (pl *planner) machine(vm *constellations.Machine) (*Machine, error) {
	section := pl.lock.Section(vm.Section())
	if section == nil {
		return nil, fmt.Errorf("the lock has nothing for %s %s (meros lock %s)", vm.Suite, vm.Arch, pl.m.Name)
	}
	pm := &Machine{Machine: vm, Constellation: pl.m.Name}
	if InMachine(vm) { // it may be needed to read what is below
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
	var inside []graph.Local
	if InMachine(vm) {
		if inside, err = pl.hookScripts(vm); err != nil {
			return nil, err
		}
	}
	if len(inside) > 0 {
		if err := pl.hooksInMachine(pm, section, inside); err != nil {
			return nil, err
		}
	}
	pm.DiskPath = filepath.Join(pl.Root, "data", "disks", pl.m.Name+"-"+vm.Name+".qcow2")
	pm.Disk = pl.disk(vm, pm)
	if pm.Disks, err = pl.disks(vm); err != nil {
		return nil, err
	}
	if vm.Format != "" && vm.Format != "qcow2" {
		if len(inside) > 0 && OfTree(vm.Format) {
			return nil, fmt.Errorf("%w: its format is %s", ErrOnlyDisk, vm.Format)
		}
		file := strings.TrimSuffix(pm.DiskPath, ".qcow2") + ExportEnding(vm.Format, vm.Compress)
		pm.Export = Export(pl.plan, pm, pl.Options, vm.Format, vm.Compress, file)
	}
	if pl.RootfsOnly {
		pm.Kernel, pm.Initrd = nil, nil // whoever runs hooks has them as inputs
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

// builtKernel adds the kernel's compilation, if the manifest has it built.
func (pl *planner) builtKernel(pm *Machine) (err error) {
	vm := pm.Machine
	if pm.Built != nil || !vm.Kernel.Built() || pl.RootfsOnly && !vm.Kernel.Headers && !InMachine(vm) {
		return nil
	}
	if pm.Built, err = pl.buildKernel(vm); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	return nil
}

// kernels adds what the machine boots with.
func (pl *planner) kernels(pm *Machine, section *constellations.SectionLock) error {
	if err := pl.builtKernel(pm); err != nil {
		return err
	}
	if err := pl.kernel(pm, section); err != nil {
		return err
	}
	return pl.initrd(pm)
}

// lower are the layers that a machine begins with, and their image: those that
// it shares with others, or what is in an image that is there already.
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
		pm.Base, pm.Used = use, true
		return []*graph.Node{use}, err
	}
	lower, err := pl.base(pm.Machine, section)
	if err == nil {
		pm.Base = pl.packBase(pm.Machine, section, lower)
	}
	return lower, err
}

// upper are the layers over the shared base, in order. A kernel's modules wait
// for nothing and nothing waits for them; its headers are there for the hooks.
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
	if !InMachine(vm) {
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

// name is what a node of one machine is called.
func (pl *planner) name(vm *constellations.Machine, what string) string {
	return pl.m.Name + "/" + vm.Name + " " + what
}

// trees are the nodes' layers as unpacked inputs.
func trees(name string, nodes []*graph.Node) []graph.Input {
	in := make([]graph.Input, len(nodes))
	for i, n := range nodes {
		in[i] = graph.Input{Name: name, Node: n, Output: OutLayer, Form: graph.Tree}
	}
	return in
}

// epoch is the time that stands for now in everything built from a section of
// a lock, in seconds since 1970: that of its newest archive index.
func epoch(section *constellations.SectionLock) graph.Param {
	return graph.Param{Name: ParamEpoch, Value: strconv.FormatInt(section.Date.Unix(), 10)}
}

// foreign are the parameters of a stage that runs programs of the machine: none
// if the host runs them itself.
func (pl *planner) foreign(vm *constellations.Machine) []graph.Param {
	if vm.Arch == pl.Host {
		return nil
	}
	return append([]graph.Param{{Name: ParamForeign, Value: vm.Arch}}, pl.tools(emulator+vm.Arch)...)
}

// tools are the identities of host programs, as parameters.
func (pl *planner) tools(names ...string) []graph.Param {
	var ps []graph.Param
	for _, n := range names {
		ps = append(ps, graph.Param{Name: ParamTool + n, Value: pl.Tools[n]})
	}
	return ps
}
