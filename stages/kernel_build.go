package stages

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
)

const (
	kernelSourceRevision  = 1
	kernelPatchRevision   = 1
	kernelConfigRevision  = 1
	kernelCompileRevision = 1
	copyRevision          = 1
)

// buildArch is the architecture that kernels are compiled on. Those of other
// architectures are compiled by its cross compilers.
const buildArch = "x86_64"

// kernelTools are the packages that a kernel is built with.
var kernelTools = []string{
	"bc", "bison", "ccache", "cpio", "flex", "kmod", "libc6-dev", "libelf-dev", "libncurses-dev", "libssl-dev", "make", "patch", "perl", "python3-minimal", "xz-utils",
}

// compilers are, by toolchain and by the architecture of the kernel, the
// further packages. libelf-dev and gcc are for the programs that the build
// itself runs.
var compilers = map[string]map[string][]string{
	"gcc": {
		"x86_64": {"gcc"}, "i386": {"gcc"},
		"aarch64": {"gcc", "gcc-aarch64-linux-gnu"}, "riscv64": {"gcc", "gcc-riscv64-linux-gnu"}, "arm": {"gcc", "gcc-arm-linux-gnueabihf"},
	},
	"clang": {
		"x86_64": {"clang", "lld", "llvm"}, "aarch64": {"clang", "lld", "llvm"}, "riscv64": {"clang", "lld", "llvm"}, "arm": {"clang", "lld", "llvm"},
	},
}

// toolchain is the machine, never booted, in whose system vm's kernel is built.
func toolchain(vm *constellations.Machine) *constellations.Machine {
	t := &constellations.Machine{Name: vm.Name, Distribution: "debian", Suite: vm.Suite, Arch: buildArch, Mirror: vm.Mirror, Bootstrap: "meros"}
	if vm.Distribution != "debian" {
		t.Suite, t.Mirror = "bookworm", ""
	}
	t.Packages = slices.Concat(kernelTools, compilers[vm.Kernel.Toolchain][vm.Arch])
	slices.Sort(t.Packages)
	return t
}

// BuiltKernel is what a plan gives for a kernel that is built.
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
	if compilers[vm.Kernel.Toolchain][vm.Arch] == nil {
		return nil, fmt.Errorf("no compiler is known that makes a kernel of %s with %s", vm.Arch, vm.Kernel.Toolchain)
	}
	if vm.Kernel.Headers && vm.Arch != buildArch {
		return nil, fmt.Errorf("headers of an %s kernel would hold programs of %s: they are not made", vm.Arch, buildArch)
	}
	section := pl.lock.Section(tools.Section())
	if section == nil {
		return nil, fmt.Errorf("the lock has nothing for %s %s, which kernels are built with (meros lock %s)", tools.Suite, tools.Arch, pl.m.Name)
	}
	base, err := pl.base(tools, section)
	if err != nil {
		return nil, err
	}
	source, err := pl.kernelSource(vm, section)
	if err != nil {
		return nil, err
	}
	// From here on every step sees the tools, and the source as it is compiled.
	inputs := append(trees("tools", base), graph.Input{Name: "source", Node: source, Output: "source", Form: graph.Tree})
	patch, err := pl.kernelPatch(vm, inputs)
	if err != nil {
		return nil, err
	}
	if patch != nil {
		inputs = append(inputs, graph.Input{Name: "source", Node: patch, Output: "layer", Form: graph.Tree})
	}
	b := new(BuiltKernel)
	if b.Config, b.Modules, err = pl.kernelConfig(vm, inputs); err != nil {
		return nil, err
	}
	b.Compile = pl.kernelCompile(vm, b.Config, inputs)
	return b, nil
}

// kernelMemory is what a compilation takes for each of its jobs, bytes.
const kernelMemory = 512 << 20

func (pl *planner) kernelCompile(vm *constellations.Machine, config *graph.Node, inputs []graph.Input) *graph.Node {
	// What foreign makefiles leave there is seen only by kernels from the same
	// place.
	from := sha256.Sum256([]byte(string(vm.Kernel.Kind) + " " + vm.Kernel.Location))
	shared := func(name string) runner.Mount {
		return runner.Mount{Source: filepath.Join(pl.Root, "data", "cache", name, fmt.Sprintf("%x", from[:8])), Target: "/" + name, Writable: true}
	}
	n := &graph.Node{
		Stage: "kernel-compile", Revision: kernelCompileRevision, Name: kernelName(vm.Kernel) + " kernel",
		Params:  []graph.Param{{Name: "arch", Value: vm.Arch}, {Name: "toolchain", Value: vm.Kernel.Toolchain}},
		Inputs:  append(slices.Clone(inputs), graph.Input{Name: "config", Node: config, Output: "config"}),
		Outputs: []string{"kernel", "layer", "release", "system-map"},
		Needs:   graph.Needs{CPU: allCPUs, Memory: 2 * kernelMemory},
		Shared:  []runner.Mount{shared("ccache"), shared("objects")},
	}
	if vm.Kernel.Headers {
		n.Params = append(n.Params, graph.Param{Name: "headers", Value: "true"})
	}
	if vm.Kernel.Debug {
		n.Outputs = append(n.Outputs, "vmlinux")
	}
	return pl.plan.Add(n)
}

// allCPUs is more tokens than any host has: the build gives what there is.
const allCPUs = 1 << 16

// Copy adds a node that puts an output where the user looks for it.
func Copy(p *graph.Plan, from *graph.Node, output, name, file string) *graph.Node {
	return p.Add(&graph.Node{
		Stage: "copy", Revision: copyRevision, Name: name,
		Inputs: []graph.Input{{Name: "file", Node: from, Output: output}}, Outputs: []string{"file"}, Deliver: file,
	})
}

// find is [Find], and remembers what was found.
func (pl *planner) find(what, name string) (string, error) {
	file, err := Find(pl.Root, pl.m, what, name)
	if err == nil {
		pl.named = append(pl.named, file)
	}
	return file, err
}

// Find finds a file or directory that the manifest names: relative to the
// root directory, as the ancestor had it, or to the constellation. Errors call
// it what.
func Find(root string, m *constellations.Manifest, what, name string) (string, error) {
	tried := []string{name}
	if !filepath.IsAbs(name) {
		tried = []string{filepath.Join(root, name), filepath.Join(m.Dir, name)}
	}
	for _, f := range tried {
		if _, err := os.Stat(f); err == nil {
			return f, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s %s: %w", what, strconv.Quote(name), err)
		}
	}
	if filepath.IsAbs(name) {
		return "", fmt.Errorf("%s %s does not exist", what, name)
	}
	return "", fmt.Errorf("%s %s does not exist (looked for %s)", what, name, strings.Join(tried, " and "))
}
