// This file plans the source of a kernel as one canonical archive, whether it comes
// from a package, a tarball, a repository or a directory.

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

// kernelName returns the name of a kernel's source for people.
func kernelName(k constellations.Kernel) string {
	location := strings.TrimSuffix(strings.TrimRight(k.Location, "/"), "/.git")
	name := strings.TrimSuffix(path.Base(location), ".git")
	if k.Ref != "" {
		name += " " + k.Ref
	}
	return name
}

// kernelSource returns the node that makes the archive.
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
			return nil, pl.unlocked("the package " + k.Location)
		}
		n.Inputs = []graph.Input{{Name: InDeb, Node: pl.fetch(section, *p), Output: OutFile}}
	case constellations.KernelTarball:
		if locked == nil {
			return nil, pl.unlocked(k.Location)
		}
		if k.SHA256 != "" && k.SHA256 != locked.SHA256 {
			return nil, fmt.Errorf("line %d: %w", k.Line, pl.otherDigest(k.Location, k.SHA256, locked.SHA256))
		}
		n.Params = append(n.Params, graph.Param{Name: ParamCompression, Value: constellations.TarCompression(path.Base(k.Location))})
		n.Inputs = []graph.Input{{Name: InTarball, Node: pl.fetchURLs(path.Base(k.Location), []string{k.Location}, locked.SHA256, locked.Size), Output: OutFile}}
	case constellations.KernelGit:
		if locked == nil {
			return nil, pl.unlocked(fmt.Sprintf("the commit of %s %s", k.Location, k.Ref))
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

// notSource lists the files in a source directory that are not source: its history
// and the results of a build. They are patterns of path.Match.
var notSource = []string{
	".git", "*.o", "*.ko", "*.a", "*.cmd", "*.mod", "*.mod.c", "*.order", "*.symvers", ".config", ".config.old", ".tmp_*", "vmlinux", "System.map",
	"include/config", "include/generated", "arch/*/include/generated",
}

// localRepository returns the directory that a repository's URL names, or "" if it
// names a server.
func localRepository(location string) string {
	if filepath.IsAbs(location) {
		return location
	}
	if u, err := url.Parse(location); err == nil && u.Scheme == "file" {
		return u.Path
	}
	return ""
}
