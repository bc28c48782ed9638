// This file plans a kernel that is built from source, from its compilers to its
// image. The stages on the way have files of their own.

package stages

import (
	"fmt"
	"slices"
	"strings"

	"meros/constellations"
	"meros/graph"
	"meros/runner/arch"
	"meros/runner/hint"
)

// buildArch is the architecture that kernels are compiled on. Its cross compilers
// compile those of other architectures.
const buildArch = "x86_64"

// kernelTools lists the packages that a kernel is built with.
var kernelTools = []string{
	"bc", "bison", "ccache", "cpio", "flex", "kmod", "libc6-dev", "libelf-dev", "libncurses-dev", "libssl-dev", "make", "patch", "perl", "python3-minimal", "xz-utils",
}

// compilers returns the packages with a toolchain that makes kernels of an
// architecture, or nil if no such packages are known. gcc itself also compiles
// the programs that the build runs.
func compilers(toolchain, machine string) []string {
	a, err := arch.Find(machine)
	switch k := a.Kernel; {
	case err != nil || k.Arch == "":
		return nil
	case toolchain == "gcc" && k.Cross == "":
		return []string{"gcc"}
	case toolchain == "gcc":
		return []string{"gcc", "gcc-" + strings.TrimSuffix(k.Cross, "-")}
	case toolchain == "clang" && k.Clang:
		return []string{"clang", "lld", "llvm"}
	}
	return nil
}

// toolchain returns a machine, never booted, whose system builds vm's kernel.
func toolchain(vm *constellations.Machine) *constellations.Machine {
	t := &constellations.Machine{Name: vm.Name, Distribution: "debian", Suite: vm.Suite, Arch: buildArch, Mirror: vm.Mirror, Bootstrap: "meros"}
	if vm.Distribution != "debian" {
		t.Suite, t.Mirror = "bookworm", ""
	}
	t.Packages = slices.Concat(kernelTools, compilers(vm.Kernel.Toolchain, vm.Arch))
	slices.Sort(t.Packages)
	return t
}

// BuiltKernel is a kernel that is built from source.
type BuiltKernel struct {
	Config  *graph.Node // output "config"
	Compile *graph.Node // outputs "kernel", "layer" (its modules and headers), "release", "system-map" and what the manifest asks for
	Modules bool        // something may be built as a module
}

// PlanKernel adds the nodes of one machine's kernel to p, and nothing else of
// the machine.
func PlanKernel(p *graph.Plan, m *constellations.Manifest, vm *constellations.Machine, lock *constellations.Lock, o Options) (*BuiltKernel, error) {
	b, err := newPlanner(p, m, lock, o).buildKernel(vm)
	if err != nil {
		return nil, fmt.Errorf("plan the kernel of %s/%s: %w", m.Name, vm.Name, err)
	}
	return b, nil
}

// buildKernel adds the nodes of a kernel from its source to its image.
func (pl *planner) buildKernel(vm *constellations.Machine) (*BuiltKernel, error) {
	tools := toolchain(vm)
	if compilers(vm.Kernel.Toolchain, vm.Arch) == nil {
		return nil, fmt.Errorf("no known compiler builds a kernel for %s with %s", vm.Arch, vm.Kernel.Toolchain)
	}
	if vm.Kernel.Headers && vm.Arch != buildArch {
		return nil, hint.Add(fmt.Errorf("no headers for a kernel of %s: they would hold programs of %s", vm.Arch, buildArch), "remove `headers` from the kernel")
	}
	section := pl.lock.Section(tools.Section())
	if section == nil {
		return nil, pl.unlocked(fmt.Sprintf("%s %s, which builds kernels", tools.Suite, tools.Arch))
	}
	base, err := pl.base(tools, section)
	if err != nil {
		return nil, err
	}
	source, err := pl.kernelSource(vm, section)
	if err != nil {
		return nil, err
	}
	// From here on every step sees the tools and the patched source.
	inputs := append(trees(InTools, base), graph.Input{Name: InSource, Node: source, Output: OutSource, Form: graph.Tree})
	patch, err := pl.kernelPatch(vm, inputs)
	if err != nil {
		return nil, err
	}
	if patch != nil {
		inputs = append(inputs, graph.Input{Name: InSource, Node: patch, Output: OutLayer, Form: graph.Tree})
	}
	b := new(BuiltKernel)
	if b.Config, b.Modules, err = pl.kernelConfig(vm, inputs); err != nil {
		return nil, err
	}
	b.Compile = pl.kernelCompile(vm, b.Config, inputs)
	return b, nil
}
