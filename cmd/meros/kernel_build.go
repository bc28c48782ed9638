package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"

	"meros/constellations"
	"meros/graph"
	"meros/stages"
)

func (c *kernelBuildCmd) args() []string {
	a := []string{"kernel-build"}
	for _, x := range []string{c.Constellation, c.Machine} {
		if x != "" {
			a = append(a, x)
		}
	}
	for _, f := range []struct{ name, value string }{
		{"source", c.Source}, {"ref", c.Ref}, {"base", c.Base}, {"toolchain", c.Toolchain}, {"arch", c.Arch}, {"output", c.Output},
	} {
		if f.value != "" {
			a = append(a, "--"+f.name+"="+f.value)
		}
	}
	for _, f := range c.Config {
		a = append(a, "--config="+f)
	}
	for _, f := range c.Patch {
		a = append(a, "--patch="+f)
	}
	if c.Locked {
		a = append(a, "--locked")
	}
	if c.Jobs > 0 {
		a = append(a, fmt.Sprint("--jobs=", c.Jobs))
	}
	return a
}

// Run implements the verb.
func (c *kernelBuildCmd) Run(e *env) error {
	m, vm, err := c.load(e)
	if err != nil {
		return err
	}
	if c.Output != "" {
		if err := e.checkOutput(c.Output); err != nil {
			return err
		}
	}
	if done, err := e.inNamespace(c.args()...); done {
		return err
	}
	w, err := openWorkplace(e)
	if err != nil {
		return err
	}
	defer w.close()
	plan, kernel, err := c.plan(e, w, m, vm)
	if err != nil {
		return err
	}
	file := c.Output
	if file == "" {
		file = filepath.Join(e.root, "data", "disks", "bzImage")
	}
	if err := checkInputs(file, m, plan.Nodes); err != nil {
		return err
	}
	image := stages.Copy(plan, kernel.Compile, "kernel", filepath.Base(file), file)
	if _, err := w.execute(e, plan, []*graph.Node{image}, execution{name: m.Name, verb: "kernel-build", machines: []string{vm.Name}, jobs: c.Jobs}); err != nil {
		return err
	}
	e.ui.say("%s", file)
	return nil
}

// plan is the plan of the kernel alone.
func (c *kernelBuildCmd) plan(e *env, w *workplace, m *constellations.Manifest, vm *constellations.Machine) (*graph.Plan, *stages.BuiltKernel, error) {
	machines := []*constellations.Machine{vm}
	lock, err := ensureLock(e, m, stages.KernelNeeds(vm), c.Locked)
	if err != nil {
		return nil, nil, err
	}
	o, err := w.options(e, m, machines, false)
	if err != nil {
		return nil, nil, err
	}
	plan := new(graph.Plan)
	kernel, err := stages.PlanKernel(plan, m, vm, lock, o)
	return plan, kernel, err
}

// load finds the machine whose kernel is wanted, with what the command line
// says of it.
func (c *kernelBuildCmd) load(e *env) (*constellations.Manifest, *constellations.Machine, error) {
	m := kernelManifest(e)
	if c.Constellation != "" {
		var err error
		if m, err = constellations.Find(e.root, c.Constellation); err != nil {
			return nil, nil, usageIfMissing(err)
		}
	}
	vm, err := c.pick(m)
	if err == nil {
		err = c.override(&vm.Kernel, vm)
	}
	if err != nil {
		return nil, nil, usageError{err}
	}
	return m, vm, nil
}

// pick is the named machine, or the first one if all have the same kernel.
func (c *kernelBuildCmd) pick(m *constellations.Manifest) (*constellations.Machine, error) {
	if c.Machine != "" {
		return m.Machine(c.Machine)
	}
	first := -1
	for i := range m.Machines {
		k := &m.Machines[i]
		if !k.Kernel.Built() && c.Source == "" {
			continue
		}
		if first >= 0 && !sameKernel(&m.Machines[first], k) {
			return nil, fmt.Errorf("%s and %s have different kernels: say which (meros kernel-build %s MACHINE)", m.Machines[first].Name, k.Name, m.Name)
		}
		if first < 0 {
			first = i
		}
	}
	if first < 0 {
		return nil, fmt.Errorf("constellation %s builds no kernel (kernel: {source: ...} in its manifest, or --source)", m.Name)
	}
	return &m.Machines[first], nil
}

// override lays the command line over a manifest's kernel.
func (c *kernelBuildCmd) override(k *constellations.Kernel, vm *constellations.Machine) error {
	if c.Source != "" {
		kind, location, problem := constellations.ParseKernelSource(c.Source)
		if problem != "" {
			return fmt.Errorf("--source %s: %s", c.Source, problem)
		}
		k.Kind, k.Location, k.Ref, k.SHA256, k.Key = kind, location, "", "", ""
		if kind == constellations.KernelGit {
			k.Ref = constellations.UpstreamRef
		}
		if k.Base == "" {
			k.Base, k.Toolchain = "tiny", "gcc"
		}
	}
	if !k.Built() {
		return errors.New("its kernel is not built from source (--source says from where)")
	}
	if c.Ref != "" {
		if k.Kind != constellations.KernelGit {
			return fmt.Errorf("--ref is for git repositories, the source is of the kind %s", k.Kind)
		}
		k.Ref = c.Ref
	}
	for _, f := range []struct {
		to    *string
		value string
	}{{&k.Base, c.Base}, {&k.Toolchain, c.Toolchain}, {&vm.Arch, c.Arch}} {
		if f.value != "" {
			*f.to = f.value
		}
	}
	for _, list := range []struct {
		to    *[]string
		files []string
	}{{&k.Fragments, c.Config}, {&k.Patches, c.Patch}} {
		for _, f := range list.files {
			*list.to = append(*list.to, fromHere(f))
		}
	}
	if c.Base != "tiny" && c.Base != "defconfig" && c.Base != "running" && c.Base != "" {
		k.Base = fromHere(c.Base)
	}
	if k.Kind == constellations.KernelDir && c.Source != "" {
		k.Location = fromHere(k.Location)
	}
	return nil
}

type kernelBuildCmd struct {
	Constellation string   `arg:"" optional:"" help:"Build the kernel of a constellation; default: the latest of upstream, for virtual machines."`
	Machine       string   `arg:"" optional:"" help:"The kernel of this machine."`
	Source        string   `help:"Where the source is from: git, a repository's URL, the URL of a tar archive, debian:PACKAGE, or a directory." placeholder:"SOURCE"`
	Ref           string   `help:"Branch, tag or commit of a git repository." placeholder:"REF"`
	Base          string   `help:"What the configuration starts from: tiny, defconfig, running, or a file." placeholder:"BASE"`
	Config        []string `help:"Fragment of a configuration; may be given several times." placeholder:"FRAGMENT" sep:"none"`
	Patch         []string `help:"Patch to apply; may be given several times." placeholder:"PATCH" sep:"none"`
	Toolchain     string   `help:"gcc or clang." enum:",gcc,clang" default:"" placeholder:"NAME"`
	Arch          string   `help:"Architecture as in qemu-system-ARCH." placeholder:"ARCH"`
	Output        string   `short:"o" help:"Where the kernel is put (default: data/disks/bzImage)." placeholder:"FILE" type:"path"`
	Locked        bool     `help:"Fail instead of changing the lock."`
	Jobs          int      `short:"j" help:"CPU tokens (default: one for each CPU)."`
}

// kernelsAlone is what stands for a constellation where there is none: its
// lock is constellations/meros.lock.
const kernelsAlone = "kernel"

// kernelManifest is a constellation of a machine of which only the kernel is
// built.
func kernelManifest(e *env) *constellations.Manifest {
	vm := constellations.DefaultMachine()
	vm.Name = kernelsAlone
	vm.Kernel = constellations.Kernel{
		Kind: constellations.KernelGit, Location: constellations.UpstreamKernel, Ref: constellations.UpstreamRef, Base: "tiny", Toolchain: "gcc",
	}
	return &constellations.Manifest{Name: kernelsAlone, Dir: filepath.Join(e.root, "constellations"), Machines: []constellations.Machine{vm}}
}

func sameKernel(a, b *constellations.Machine) bool {
	x, y := a.Kernel, b.Kernel
	x.Line, y.Line = 0, 0
	return a.Arch == b.Arch && reflect.DeepEqual(x, y)
}

// fromHere is a path of the command line where it may be used from elsewhere.
func fromHere(file string) string {
	if abs, err := filepath.Abs(file); err == nil {
		return abs
	}
	return file
}
