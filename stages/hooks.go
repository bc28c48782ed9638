// This file plans the hooks of a machine that run in a sandbox, and lists the
// scripts. Hooks that run in the machine itself are in hooks_vm.go.

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

const hooksRevision = 4

// hooks returns the layer of the scripts' changes, or nil if there are no scripts.
func (pl *planner) hooks(vm *constellations.Machine, section *constellations.SectionLock, below []*graph.Node) (*graph.Node, error) {
	n := &graph.Node{
		Stage: "hooks", Revision: hooksRevision, Name: pl.name(vm, "hooks"),
		Params:  append([]graph.Param{epoch(section)}, pl.foreign(vm)...),
		Hints:   []graph.Param{{Name: HintTimeout, Value: pl.Timeout}},
		Inputs:  trees(InLower, below),
		Outputs: []string{OutLayer, OutAccounts, OutDirectories},
	}
	if vm.Hooks.Network {
		n.Params = append(n.Params, graph.Param{Name: ParamNetwork, Value: "user"})
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

// hookScripts returns the machine's hooks in the order in which they run. Those of
// common/ come first, then its own, each in the order of the names' bytes.
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

// scripts returns the names of the hooks in dir, in the order in which they run.
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

// installs matches a line of a hook that installs packages.
var installs = regexp.MustCompile(`(?m)^[^#\n]*\b(apk\s+(-\S+\s+)*add|apt(-get)?\s+(-\S+\s+)*install)\b`)

// InstallsPackages reports whether a hook installs packages.
func InstallsPackages(hook []byte) bool { return installs.Match(hook) }
