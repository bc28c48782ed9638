// This file plans a kernel's configuration from a base, meros' own fragments and
// the manifest's.

package stages

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"meros/constellations"
	"meros/graph"
	"meros/runner/hint"
)

// Names of the plan and the step, see names.go.
const (
	ParamBaseConfig = "base"    // "tiny" or a goal of the kernel's makefile
	ParamMenu       = "menu"    // goal of the kernel's makefile that shows a menu
	ParamOptions    = "options" // that the fragments ask for, one a line

	HintOrigins = "origins" // JSON object of the place that asks for each option
	HintTerm    = "term"    // kind of the user's terminal

	InBaseConfig = "base" // file of the configuration to start from

	OutFragment = "fragment" // options that the user changed
)

const kernelConfigRevision = 1

// These are meros' own fragments: the options that a kernel needs in a machine, for
// all architectures and for one.
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

// kernelConfig returns the node that makes the configuration, and reports whether the
// kernel may have modules. The key holds the options as one sorted list. The names and
// the order of the fragments are in no key; errors use them.
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
		modules = modules || o.Value == "m" || o.Name == "MODULES" && o.Value == "y"
	}
	places, err := json.Marshal(origins)
	if err != nil {
		return nil, false, err
	}
	n = &graph.Node{
		Stage: "kernel-config", Revision: kernelConfigRevision, Name: kernelName(vm.Kernel) + " config",
		Params: []graph.Param{
			{Name: ParamArch, Value: vm.Arch}, {Name: ParamToolchain, Value: vm.Kernel.Toolchain}, {Name: ParamOptions, Value: options.String()},
		},
		Hints: []graph.Param{{Name: HintOrigins, Value: string(places)}}, Inputs: inputs, Outputs: []string{OutConfig},
	}
	switch base := vm.Kernel.Base; base {
	case "tiny", "defconfig":
		n.Params = append(n.Params, graph.Param{Name: ParamBaseConfig, Value: base})
		modules = modules || base == "defconfig"
	default:
		file, err := pl.baseConfig(base)
		if err != nil {
			return nil, false, err
		}
		l, err := pl.file(InBaseConfig, file)
		if err != nil {
			return nil, false, err
		}
		n.Locals, modules = []graph.Local{*l}, true
	}
	return pl.plan.Add(n), modules, nil
}

// baseConfig returns the file of the configuration to start from. "running" stands
// for the configuration of the host's kernel.
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
	return "", hint.Add(fmt.Errorf("the running kernel's configuration is neither %s", strings.Join(tried, " nor ")), "name a file instead of `running`")
}

// kernelOptions returns the options of meros' own fragments and of the manifest's,
// sorted by name. The manifest's win.
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

// KernelMenu returns a node, of no plan, in which a person edits the configuration of
// b. menu is a target of the kernel's makefile, term the kind of terminal.
func KernelMenu(b *BuiltKernel, menu, term string) *graph.Node {
	return &graph.Node{
		Stage: "kernel-menu", Name: "kernel configuration", Params: append(slices.Clone(b.Config.Params), graph.Param{Name: ParamMenu, Value: menu}),
		Hints:   []graph.Param{{Name: HintTerm, Value: term}},
		Inputs:  append(slices.Clone(b.Config.Inputs), graph.Input{Name: InConfig, Node: b.Config, Output: OutConfig}),
		Outputs: []string{OutFragment},
	}
}
