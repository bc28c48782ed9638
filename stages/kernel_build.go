package stages

import (
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

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

// vmConfigs are meros' own fragments: what a kernel needs to run a machine, on
// all architectures and on one.
var (
	//go:embed vm.config
	vmConfig []byte
	//go:embed vm-x86_64.config
	vmConfigX86 []byte
	//go:embed vm-aarch64.config
	vmConfigARM64 []byte
	//go:embed vm-riscv64.config
	vmConfigRISCV []byte
)

func vmConfigOf(arch string) []byte {
	return map[string][]byte{"x86_64": vmConfigX86, "aarch64": vmConfigARM64, "riscv64": vmConfigRISCV}[arch]
}

// BuiltKernel is what a plan gives for a kernel that is built.
type BuiltKernel struct {
	Config  *graph.Node // output "config"
	Compile *graph.Node // outputs "kernel", "layer" (its modules), "release", "system-map" and what the manifest asks for
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
	section := pl.lock.Section(tools.Suite, tools.Arch, tools.Mirror)
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

// kernelName is what people call the source of a kernel.
func kernelName(k constellations.Kernel) string {
	name := strings.TrimSuffix(path.Base(strings.TrimRight(k.Location, "/")), ".git")
	if k.Ref != "" {
		name += " " + k.Ref
	}
	return name
}

// kernelSource is the source as one canonical archive, wherever it is from.
func (pl *planner) kernelSource(vm *constellations.Machine, section *constellations.DebianLock) (*graph.Node, error) {
	k := vm.Kernel
	n := &graph.Node{
		Stage: "kernel-source", Revision: kernelSourceRevision, Name: kernelName(k) + " source", Outputs: []string{"source"},
		Params: []graph.Param{{Name: "kind", Value: string(k.Kind)}}, Needs: graph.Needs{Memory: 512 << 20},
	}
	locked := pl.lock.Source(k.Kind, k.Location, k.Ref)
	switch k.Kind {
	case constellations.KernelDebian:
		p := section.Package(k.Location)
		if p == nil {
			return nil, fmt.Errorf("the lock does not have the package %s (meros lock %s)", k.Location, pl.m.Name)
		}
		n.Inputs = []graph.Input{{Name: "deb", Node: pl.fetch(section, *p), Output: "file"}}
	case constellations.KernelTarball:
		if locked == nil {
			return nil, fmt.Errorf("the lock does not have %s (meros lock %s)", k.Location, pl.m.Name)
		}
		if k.SHA256 != "" && k.SHA256 != locked.SHA256 {
			return nil, fmt.Errorf("line %d: %s has the digest %s in the manifest and %s in the lock (meros update %s)", k.Line, k.Location, k.SHA256, locked.SHA256, pl.m.Name)
		}
		n.Params = append(n.Params, graph.Param{Name: "compression", Value: constellations.TarCompression(path.Base(k.Location))})
		n.Inputs = []graph.Input{{Name: "tarball", Node: pl.fetchURLs(path.Base(k.Location), []string{k.Location}, locked.SHA256, locked.Size), Output: "file"}}
	case constellations.KernelGit:
		if locked == nil {
			return nil, fmt.Errorf("the lock does not have the commit of %s %s (meros lock %s)", k.Location, k.Ref, pl.m.Name)
		}
		n.Params = append(n.Params, graph.Param{Name: "commit", Value: locked.Commit})
		n.Hints = []graph.Param{{Name: "url", Value: k.Location}, {Name: "ref", Value: k.Ref}, {Name: "constellation", Value: pl.m.Name}}
		n.Network, n.Needs.Download = runner.HostNetwork, true
		if dir := localRepository(k.Location); dir != "" {
			n.Shared = []runner.Mount{{Source: dir, Target: dir}}
		}
	case constellations.KernelDir:
		dir, err := pl.find("kernel source", k.Location)
		if err != nil {
			return nil, err
		}
		l, err := pl.file("source", dir, notSource...)
		if err != nil {
			return nil, err
		}
		n.Locals = []graph.Local{*l}
		n.Params = append(n.Params, graph.Param{Name: "skip", Value: strings.Join(notSource, " ")})
	}
	return pl.plan.Add(n), nil
}

// notSource are what a directory holds besides the source: its history, and
// what a build in it leaves. Patterns of path.Match.
var notSource = []string{
	".git", "*.o", "*.ko", "*.a", "*.cmd", "*.mod", "*.mod.c", "*.order", "*.symvers", ".config", ".config.old", ".tmp_*", "vmlinux", "System.map",
	"include/config", "include/generated", "arch/*/include/generated",
}

// localRepository is the directory that a repository's URL names, or "".
func localRepository(location string) string {
	if filepath.IsAbs(location) {
		return location
	}
	if u, err := url.Parse(location); err == nil && u.Scheme == "file" {
		return u.Path
	}
	return ""
}

// fetchURLs is a file whose digest is known.
func (pl *planner) fetchURLs(name string, urls []string, sum string, size int64) *graph.Node {
	d := digest.NewDigestFromEncoded(digest.SHA256, sum)
	text, err := json.Marshal(urls)
	if err != nil {
		panic(err) // strings always marshal
	}
	shared := []runner.Mount{{Source: path.Join(pl.Root, "data", "cache", "partial"), Target: "/partial", Writable: true}}
	for _, u := range urls {
		if file, ok := strings.CutPrefix(u, "file://"); ok {
			shared = append(shared, runner.Mount{Source: file, Target: file})
		}
	}
	return pl.plan.Add(&graph.Node{
		Stage: "fetch", Revision: fetchRevision, Name: "fetch " + name,
		Outputs: []string{"file"},
		Fixed:   map[string]graph.Artifact{"file": {Digest: d, Size: size}},
		Hints:   []graph.Param{{Name: "urls", Value: string(text)}, {Name: "digest", Value: d.String()}, {Name: "size", Value: fmt.Sprint(size)}},
		Network: runner.HostNetwork,
		Needs:   graph.Needs{Download: true},
		Shared:  shared,
	})
}

// kernelPatch is the difference that the patches make, or nil without any.
func (pl *planner) kernelPatch(vm *constellations.Machine, inputs []graph.Input) (*graph.Node, error) {
	if len(vm.Kernel.Patches) == 0 {
		return nil, nil
	}
	n := &graph.Node{
		Stage: "kernel-patch", Revision: kernelPatchRevision, Name: kernelName(vm.Kernel) + " patches",
		Inputs: inputs, Outputs: []string{"layer"},
	}
	for _, p := range vm.Kernel.Patches {
		file, err := pl.find("patch", p)
		if err != nil {
			return nil, err
		}
		l, err := pl.file(path.Base(p), file)
		if err != nil {
			return nil, err
		}
		n.Locals = append(n.Locals, *l)
	}
	return pl.plan.Add(n), nil
}

// kernelConfig is the configuration that the base and the fragments come to.
// What they ask for is in the key as one sorted list: neither their order nor
// their names matter, only where an error points.
func (pl *planner) kernelConfig(vm *constellations.Machine, inputs []graph.Input) (n *graph.Node, modules bool, err error) {
	wanted, err := pl.kernelOptions(vm)
	if err != nil {
		return nil, false, err
	}
	var options strings.Builder
	origins := make(map[string]string)
	for _, o := range wanted {
		options.WriteString(o.String() + "\n")
		origins[o.Name] = o.Place()
		modules = modules || o.Value == "m"
	}
	places, err := json.Marshal(origins)
	if err != nil {
		return nil, false, err
	}
	n = &graph.Node{
		Stage: "kernel-config", Revision: kernelConfigRevision, Name: kernelName(vm.Kernel) + " config",
		Params: []graph.Param{
			{Name: "arch", Value: vm.Arch}, {Name: "toolchain", Value: vm.Kernel.Toolchain}, {Name: "options", Value: options.String()},
		},
		Hints: []graph.Param{{Name: "origins", Value: string(places)}}, Inputs: inputs, Outputs: []string{"config"},
	}
	switch base := vm.Kernel.Base; base {
	case "tiny", "defconfig":
		n.Params = append(n.Params, graph.Param{Name: "base", Value: base})
		modules = modules || base == "defconfig"
	default:
		file, err := pl.baseConfig(base)
		if err != nil {
			return nil, false, err
		}
		l, err := pl.file("base", file)
		if err != nil {
			return nil, false, err
		}
		n.Locals, modules = []graph.Local{*l}, true
	}
	return pl.plan.Add(n), modules, nil
}

// baseConfig is the file of a configuration to start from; "running" is that
// of the host's kernel.
func (pl *planner) baseConfig(name string) (string, error) {
	if name != "running" {
		return pl.find("kernel configuration", name)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", err
	}
	tried := []string{"/boot/config-" + strings.TrimSpace(string(release)), "/proc/config.gz"}
	for _, f := range tried {
		if _, err := os.Stat(f); err == nil {
			return f, nil
		}
	}
	return "", fmt.Errorf("the running kernel's configuration is neither %s (name a file instead of \"running\")", strings.Join(tried, " nor "))
}

// kernelOptions is what meros' own fragments and the manifest's ask for, by
// name; the manifest's count more.
func (pl *planner) kernelOptions(vm *constellations.Machine) ([]constellations.Option, error) {
	all := make(map[string]constellations.Option)
	for name, src := range map[string][]byte{"vm.config": vmConfig, "vm-" + vm.Arch + ".config": vmConfigOf(vm.Arch)} {
		own, err := constellations.ParseFragment("meros' own "+name, src)
		if err != nil {
			return nil, err
		}
		for _, o := range own {
			all[o.Name] = o
		}
	}
	var fragments [][]constellations.Option
	for _, f := range vm.Kernel.Fragments {
		file, err := pl.find("kernel configuration", f)
		if err != nil {
			return nil, err
		}
		src, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		options, err := constellations.ParseFragment(f, src)
		if err != nil {
			return nil, err
		}
		fragments = append(fragments, options)
	}
	merged, err := constellations.MergeFragments(fragments...)
	if err != nil {
		return nil, err
	}
	for name, o := range merged {
		all[name] = o
	}
	var list []constellations.Option
	for _, o := range all {
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b constellations.Option) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
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
	if vm.Kernel.Debug {
		n.Outputs = append(n.Outputs, "vmlinux")
	}
	return pl.plan.Add(n)
}

// KernelMenu is the node, of no plan, in which a person changes what b comes
// to. menu is a target of the kernel's makefile, term the kind of terminal.
func KernelMenu(b *BuiltKernel, menu, term string) *graph.Node {
	return &graph.Node{
		Stage: "kernel-menu", Name: "kernel configuration", Params: append(slices.Clone(b.Config.Params), graph.Param{Name: "menu", Value: menu}),
		Hints:   []graph.Param{{Name: "term", Value: term}},
		Inputs:  append(slices.Clone(b.Config.Inputs), graph.Input{Name: "config", Node: b.Config, Output: "config"}),
		Outputs: []string{"fragment"},
	}
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

// find finds a file or directory that the manifest names: relative to the
// root directory, as the ancestor had it, or to the constellation.
func (pl *planner) find(what, name string) (string, error) {
	tried := []string{name}
	if !filepath.IsAbs(name) {
		tried = []string{filepath.Join(pl.Root, name), filepath.Join(pl.m.Dir, name)}
	}
	for _, f := range tried {
		if _, err := os.Stat(f); err == nil {
			return f, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s %s: %w", what, strconv.Quote(name), err)
		}
	}
	return "", fmt.Errorf("%s %s does not exist (looked for %s)", what, name, strings.Join(tried, " and "))
}
