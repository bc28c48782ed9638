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
