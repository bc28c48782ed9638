// This file plans the compilation of a kernel.

package stages

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"slices"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
)

// Names of the plan and the step, see names.go.
const (
	ParamHeaders = "headers" // "true" if the layer has the headers

	OutSystemMap = "system-map"
	OutVmlinux   = "vmlinux" // kernel with debugging symbols
)

const kernelCompileRevision = 1

// kernelMemory is the memory that a compilation takes for each of its jobs, bytes.
const kernelMemory = 512 << 20

// kernelCompile returns the node that compiles a kernel.
func (pl *planner) kernelCompile(vm *constellations.Machine, config *graph.Node, inputs []graph.Input) *graph.Node {
	// Foreign makefiles write there. Only kernels from the same place share it.
	from := sha256.Sum256([]byte(string(vm.Kernel.Kind) + " " + vm.Kernel.Location))
	shared := func(name string) runner.Mount {
		return runner.Mount{Source: filepath.Join(pl.Root, "data", "cache", name, fmt.Sprintf("%x", from[:8])), Target: "/" + name, Writable: true}
	}
	n := &graph.Node{
		Stage: "kernel-compile", Revision: kernelCompileRevision, Name: kernelName(vm.Kernel) + " kernel",
		Params:  []graph.Param{{Name: ParamArch, Value: vm.Arch}, {Name: ParamToolchain, Value: vm.Kernel.Toolchain}},
		Inputs:  append(slices.Clone(inputs), graph.Input{Name: InConfig, Node: config, Output: OutConfig}),
		Outputs: []string{OutKernel, OutLayer, OutRelease, OutSystemMap},
		Needs:   graph.Needs{CPU: allCPUs, Memory: 2 * kernelMemory},
		Shared:  []runner.Mount{shared("ccache"), shared("objects")},
	}
	if vm.Kernel.Headers {
		n.Params = append(n.Params, graph.Param{Name: ParamHeaders, Value: "true"})
	}
	if vm.Kernel.Debug {
		n.Outputs = append(n.Outputs, OutVmlinux)
	}
	return pl.plan.Add(n)
}

// allCPUs is more tokens than any host has: the node gets all there are.
const allCPUs = 1 << 16
