// This file holds a request for a kernel alone, for all verbs that build or
// configure one. The kernel is a machine's, changed by the command line.

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"

	"meros/constellations"
	"meros/graph"
	"meros/runner/hint"
	"meros/stages"
)

// kernelRequest says which kernel to build, and from what.
type kernelRequest struct {
	Constellation string // "" means no constellation: upstream's latest
	Machine       string // "" means the first one, if all have the same kernel
	Locked        bool   // fail rather than change the lock

	// These replace the settings of the manifest, unless they are "".
	Source, Ref, Base, Toolchain, Arch string
	Config, Patch                      []string // added to the manifest's
}

// plan plans the kernel alone.
func (r *kernelRequest) plan(e *env, w *workspace, m *constellations.Manifest, vm *constellations.Machine) (*graph.Plan, *stages.BuiltKernel, error) {
	machines := []*constellations.Machine{vm}
	lock, err := ensureLock(e, m, stages.KernelNeeds(vm), r.Locked)
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

// load returns the machine with the kernel, changed by the command line.
func (r *kernelRequest) load(e *env) (*constellations.Manifest, *constellations.Machine, error) {
	m := kernelManifest(e)
	if r.Constellation != "" {
		var err error
		if m, err = constellations.Find(e.root, r.Constellation); err != nil {
			return nil, nil, usageIfMissing(err)
		}
	}
	vm, err := r.pick(m)
	if err == nil {
		err = r.override(&vm.Kernel, vm)
	}
	if err != nil {
		return nil, nil, usageError{err}
	}
	return m, vm, nil
}

// pick returns the named machine, or the first one if all have the same kernel.
func (r *kernelRequest) pick(m *constellations.Manifest) (*constellations.Machine, error) {
	if r.Machine != "" {
		return m.Machine(r.Machine)
	}
	first := -1
	for i := range m.Machines {
		k := &m.Machines[i]
		if !k.Kernel.Built() && r.Source == "" {
			continue
		}
		if first >= 0 && !sameKernel(&m.Machines[first], k) {
			return nil, hint.Add(fmt.Errorf("%s and %s have different kernels", m.Machines[first].Name, k.Name), "name the machine: `meros kernel-build %s MACHINE`", m.Name)
		}
		if first < 0 {
			first = i
		}
	}
	if first < 0 {
		return nil, hint.Add(fmt.Errorf("constellation %s builds no kernel", m.Name), "use `kernel: {source: ...}` in the manifest, or --source")
	}
	return &m.Machines[first], nil
}

// override replaces the manifest's settings by those of the command line.
func (r *kernelRequest) override(k *constellations.Kernel, vm *constellations.Machine) error {
	if r.Source != "" {
		kind, location, problem := constellations.ParseKernelSource(r.Source)
		if problem != "" {
			return fmt.Errorf("--source %s: %s", r.Source, problem)
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
		return hint.Add(errors.New("its kernel is not built from source"), "--source names a source")
	}
	if r.Ref != "" {
		if k.Kind != constellations.KernelGit {
			return fmt.Errorf("--ref is for git repositories, and the source is of the kind %s", k.Kind)
		}
		k.Ref = r.Ref
	}
	for _, f := range []struct {
		to    *string
		value string
	}{{&k.Base, r.Base}, {&k.Toolchain, r.Toolchain}, {&vm.Arch, r.Arch}} {
		if f.value != "" {
			*f.to = f.value
		}
	}
	for _, list := range []struct {
		to    *[]string
		files []string
	}{{&k.Fragments, r.Config}, {&k.Patches, r.Patch}} {
		for _, f := range list.files {
			*list.to = append(*list.to, fromHere(f))
		}
	}
	if r.Base != "tiny" && r.Base != "defconfig" && r.Base != "running" && r.Base != "" {
		k.Base = fromHere(r.Base)
	}
	if k.Kind == constellations.KernelDir && r.Source != "" {
		k.Location = fromHere(k.Location)
	}
	return nil
}

// kernelWords adds those of the names that are given.
func kernelWords(words []string, names ...string) []string {
	return append(words, slices.DeleteFunc(names, func(n string) bool { return n == "" })...)
}

// kernelsAlone is the name of the constellation of kernels that belong to none. Its lock is
// constellations/meros.lock.
const kernelsAlone = "kernel"

// kernelManifest returns a constellation of one machine, for its kernel.
func kernelManifest(e *env) *constellations.Manifest {
	vm := constellations.DefaultMachine()
	vm.Name = kernelsAlone
	vm.Kernel = constellations.Kernel{
		Kind: constellations.KernelGit, Location: constellations.UpstreamKernel, Ref: constellations.UpstreamRef, Base: "tiny", Toolchain: "gcc",
	}
	return &constellations.Manifest{Name: kernelsAlone, Dir: e.constellationsDir(), Machines: []constellations.Machine{vm}}
}

// sameKernel reports whether two machines have the same kernel.
func sameKernel(a, b *constellations.Machine) bool {
	x, y := a.Kernel, b.Kernel
	x.Line, y.Line = 0, 0
	return a.Arch == b.Arch && reflect.DeepEqual(x, y)
}

// fromHere makes a path absolute, for use from another directory.
func fromHere(file string) string {
	if abs, err := filepath.Abs(file); err == nil {
		return abs
	}
	return file
}
