package stages

import (
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strings"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
)

// Names of the plan and the step, see names.go.
const (
	ParamCommit      = "commit"      // of the repository
	ParamCompression = "compression" // of the tarball
	ParamKind        = "kind"        // constellations.KernelKind of the source
	ParamSkip        = "skip"        // patterns of files that are no part of the source, separated by spaces

	HintConstellation = "constellation" // name, for errors
	HintRef           = "ref"           // branch or tag that the lock resolved
	HintURL           = "url"           // of the repository

	InTarball = "tarball"
)

const kernelSourceRevision = 1

// kernelName is what people call the source of a kernel.
func kernelName(k constellations.Kernel) string {
	location := strings.TrimSuffix(strings.TrimRight(k.Location, "/"), "/.git")
	name := strings.TrimSuffix(path.Base(location), ".git")
	if k.Ref != "" {
		name += " " + k.Ref
	}
	return name
}

// kernelSource is the source as one canonical archive, wherever it is from.
func (pl *planner) kernelSource(vm *constellations.Machine, section *constellations.SectionLock) (*graph.Node, error) {
	k := vm.Kernel
	n := &graph.Node{
		Stage: "kernel-source", Revision: kernelSourceRevision, Name: kernelName(k) + " source", Outputs: []string{OutSource},
		Params: []graph.Param{{Name: ParamKind, Value: string(k.Kind)}}, Needs: graph.Needs{Memory: 512 << 20},
	}
	locked := pl.lock.Source(k.Kind, k.Location, k.Ref)
	switch k.Kind {
	case constellations.KernelDebian:
		p := section.Package(k.Location)
		if p == nil {
			return nil, fmt.Errorf("the lock does not have the package %s (meros lock %s)", k.Location, pl.m.Name)
		}
		n.Inputs = []graph.Input{{Name: InDeb, Node: pl.fetch(section, *p), Output: OutFile}}
	case constellations.KernelTarball:
		if locked == nil {
			return nil, fmt.Errorf("the lock does not have %s (meros lock %s)", k.Location, pl.m.Name)
		}
		if k.SHA256 != "" && k.SHA256 != locked.SHA256 {
			return nil, fmt.Errorf("line %d: %s has the digest %s in the manifest and %s in the lock (meros update %s)", k.Line, k.Location, k.SHA256, locked.SHA256, pl.m.Name)
		}
		n.Params = append(n.Params, graph.Param{Name: ParamCompression, Value: constellations.TarCompression(path.Base(k.Location))})
		n.Inputs = []graph.Input{{Name: InTarball, Node: pl.fetchURLs(path.Base(k.Location), []string{k.Location}, locked.SHA256, locked.Size), Output: OutFile}}
	case constellations.KernelGit:
		if locked == nil {
			return nil, fmt.Errorf("the lock does not have the commit of %s %s (meros lock %s)", k.Location, k.Ref, pl.m.Name)
		}
		n.Params = append(n.Params, graph.Param{Name: ParamCommit, Value: locked.Commit})
		n.Hints = []graph.Param{{Name: HintURL, Value: k.Location}, {Name: HintRef, Value: k.Ref}, {Name: HintConstellation, Value: pl.m.Name}}
		n.Network, n.Needs.Download = runner.HostNetwork, true
		if dir := localRepository(k.Location); dir != "" {
			n.Shared = []runner.Mount{{Source: dir, Target: dir}}
		}
	case constellations.KernelDir:
		dir, err := pl.find("kernel source", k.Location)
		if err != nil {
			return nil, err
		}
		l, err := pl.file(InSource, dir, notSource...)
		if err != nil {
			return nil, err
		}
		n.Locals = []graph.Local{*l}
		n.Params = append(n.Params, graph.Param{Name: ParamSkip, Value: strings.Join(notSource, " ")})
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
