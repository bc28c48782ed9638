package stages

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
)

const (
	overlayRevision = 4
	hooksRevision   = 4
)

// Includes is the directory, within a machine's and within common/, whose
// files are copied into the root file system.
const Includes = "includes.chroot"

// sources are the directories of a constellation that a machine is made of,
// the later over the earlier.
func sources(vm *constellations.Machine) []string { return []string{"common", vm.Name} }

// local reads a file or directory of the constellation, or returns nil if
// there is none.
func (pl *planner) local(name, rel string) (*graph.Local, error) {
	file := filepath.Join(pl.m.Dir, rel)
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return pl.file(name, file)
}

// file is a local input that has to be there. Machines share many, each is
// read once.
func (pl *planner) file(name, file string, skip ...string) (*graph.Local, error) {
	if l, ok := pl.locals[file]; ok {
		return l, nil
	}
	l, err := graph.ReadLocal(name, file, skip, pl.StatCache)
	if err != nil {
		return nil, err
	}
	pl.locals[file] = &l
	return &l, nil
}

// overlay is the layer of the files to copy in, or nil if there are none.
func (pl *planner) overlay(vm *constellations.Machine, section *constellations.SectionLock, below []*graph.Node) (*graph.Node, error) {
	n := &graph.Node{
		Stage: "overlay", Revision: overlayRevision, Name: pl.name(vm, "overlay"),
		Params: []graph.Param{epoch(section)}, Inputs: trees("lower", below),
		Outputs: []string{"layer", "accounts", "directories"},
	}
	files := false
	for i, dir := range sources(vm) {
		for _, kind := range []string{Includes, owners} {
			l, err := pl.local([]string{"common ", ""}[i]+kind, filepath.Join(dir, kind))
			if err != nil {
				return nil, err
			}
			if l != nil {
				n.Locals = append(n.Locals, *l)
				files = files || kind == Includes
			}
		}
	}
	if !files {
		return nil, nil
	}
	return pl.plan.Add(n), nil
}

// hooks is the layer of what the scripts change, or nil if there are none.
// common/ runs first, then the machine's own, each in the order of the names'
// bytes.
func (pl *planner) hooks(vm *constellations.Machine, section *constellations.SectionLock, below []*graph.Node) (*graph.Node, error) {
	n := &graph.Node{
		Stage: "hooks", Revision: hooksRevision, Name: pl.name(vm, "hooks"),
		Params:  append([]graph.Param{epoch(section)}, pl.foreign(vm)...),
		Hints:   []graph.Param{{Name: "timeout", Value: pl.Timeout}},
		Inputs:  trees("lower", below),
		Outputs: []string{"layer", "accounts", "directories"},
	}
	if vm.Hooks.Network {
		n.Params = append(n.Params, graph.Param{Name: "network", Value: "user"})
		n.Impure, n.Network = true, runner.HostNetwork
		n.Devices = []string{"/dev/net/tun"}
	}
	var err error
	if n.Locals, err = pl.hookScripts(vm); err != nil {
		return nil, err
	}
	if len(n.Locals) == 0 {
		return nil, nil
	}
	return pl.plan.Add(n), nil
}

// hookScripts are the machine's hooks, in the order in which they run.
func (pl *planner) hookScripts(vm *constellations.Machine) ([]graph.Local, error) {
	var all []graph.Local
	for _, dir := range sources(vm) {
		names, err := scripts(filepath.Join(pl.m.Dir, dir, "hooks"))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			l, err := pl.local(filepath.Join("hooks", name), filepath.Join(dir, "hooks", name))
			if err != nil {
				return nil, err
			}
			if dir == "common" {
				l.Name = filepath.Join("common", "hooks", name)
			}
			all = append(all, *l)
		}
	}
	return all, nil
}

// hookSuffix ends the names of hooks.
const hookSuffix = ".chroot"

// scripts are the names of the hooks in dir, in the order in which they run.
func scripts(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), hookSuffix) && !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}

// installs is a line of a hook that installs packages.
var installs = regexp.MustCompile(`(?m)^[^#\n]*\b(apk\s+(-\S+\s+)*add|apt(-get)?\s+(-\S+\s+)*install)\b`)

// InstallsPackages reports whether a hook installs packages.
func InstallsPackages(hook []byte) bool { return installs.Match(hook) }
