// This file plans the system of an Alpine machine. Stage alpine is the mini root
// file system of a release, stage apk the packages over it.

package stages

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"meros/constellations"
	"meros/graph"
	"meros/runner/hint"
)

// Names of the plan and the step, see names.go.
const (
	ParamBranch = "branch" // release branch, such as v3.20
	ParamSetup  = "setup"  // init system that the packages are set up for

	InApk    = "apk"    // package
	InKey    = "key "   // begins the name of a key that signs packages
	InRootFS = "rootfs" // mini root file system, an archive
)

const (
	alpineRevision = 2
	apkRevision    = 5
)

// alpineBase returns the mini root file system of a release, and the layer of
// packages and of the files that let it boot.
func (pl *planner) alpineBase(vm *constellations.Machine, section *constellations.SectionLock) ([]*graph.Node, error) {
	rootfs := section.Base[0]
	branch, _, _ := strings.Cut(rootfs.Filename, "/")
	base := &graph.Node{
		Stage: "alpine", Revision: alpineRevision, Name: baseName(vm) + " mini root file system",
		Params:  []graph.Param{epoch(section), {Name: ParamBranch, Value: branch}},
		Inputs:  []graph.Input{{Name: InRootFS, Node: pl.fetch(section, rootfs), Output: OutFile}},
		Outputs: []string{OutLayer, OutAccounts},
	}
	if vm.Mirror != "" {
		base.Params = append(base.Params, graph.Param{Name: ParamMirror, Value: vm.Mirror})
	}
	for _, k := range vm.Keys {
		if !strings.HasSuffix(k, ".pub") {
			continue // it signs releases, apk does not use it
		}
		file, err := pl.find("key", k)
		if err != nil {
			return nil, err
		}
		l, err := pl.file(InKey+filepath.Base(k), file)
		if err != nil {
			return nil, err
		}
		base.Locals = append(base.Locals, *l)
	}
	lower := []*graph.Node{pl.plan.Add(base)}
	set := &constellations.PackageSet{}
	if len(vm.Packages) > 0 {
		if set = section.Set(vm.Packages); set == nil {
			return nil, pl.notLocked("its packages", vm)
		}
	}
	if vm.Setup == "openrc" && !slices.Contains(vm.Packages, "openrc") && !slices.ContainsFunc(set.Packages, func(p constellations.Package) bool { return p.Name == "openrc" }) {
		return nil, hint.Add(fmt.Errorf("setup of %s is openrc, but the package openrc is not among its packages", vm.Name), "`packages: [openrc]` adds it")
	}
	apk := &graph.Node{
		Stage: "apk", Revision: apkRevision, Name: fmt.Sprintf("%s packages (%d)", baseName(vm), len(set.Packages)),
		Params:  []graph.Param{epoch(section), {Name: ParamNames, Value: strings.Join(set.Names, " ")}, {Name: ParamSetup, Value: vm.Setup}},
		Inputs:  trees(InLower, lower),
		Outputs: []string{OutLayer, OutAccounts},
	}
	apk.Params = append(apk.Params, pl.foreign(vm)...)
	for _, p := range set.Packages {
		apk.Inputs = append(apk.Inputs, graph.Input{Name: InApk, Node: pl.fetch(section, p), Output: OutFile})
	}
	return append(lower, pl.plan.Add(apk)), nil
}
