// This file plans the initrd. Its first program is meros itself, built for the
// machine's architecture.

package stages

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
	"meros/runner/arch"
)

// Names of the plan and the step, see names.go.
const (
	InInit    = "init"     // program of the machine's first process
	InLibrary = "library " // begins the name of a library of that program
	InModules = "modules"  // modules of the kernel
)

const initrdRevision = 1

// initrd adds the initrd that mounts the machine's root. It holds the modules of a
// distribution's kernel.
func (pl *planner) initrd(pm *Machine) error {
	initrd := &graph.Node{
		Stage: "initrd", Revision: initrdRevision, Name: "initrd without modules", Outputs: []string{OutInitrd},
	}
	if pm.Machine.Kernel.Kind == constellations.KernelDistro {
		initrd.Name = baseSystem(pm.Machine) + " initrd"
		initrd.Inputs = []graph.Input{{Name: InModules, Node: pm.Kernel, Output: OutModules, Form: graph.Tree}}
	}
	program, err := pl.program(pm.Arch)
	if err != nil {
		return err
	}
	self, err := pl.file(InInit, program)
	if err != nil {
		return err
	}
	initrd.Locals = []graph.Local{*self}
	libraries, err := runner.Libraries(program)
	if err != nil {
		return fmt.Errorf("libraries of %s: %w", program, err)
	}
	for _, name := range slices.Sorted(maps.Keys(libraries)) {
		l, err := pl.file(InLibrary+name, libraries[name])
		if err != nil {
			return err
		}
		initrd.Locals = append(initrd.Locals, *l)
	}
	pm.Initrd = pl.plan.Add(initrd)
	return nil
}

// program returns the file of meros for machines of an architecture: this program, or
// one of another name beside it or in $PATH.
func (pl *planner) program(machine string) (string, error) {
	if machine == pl.Host {
		return pl.Self, nil
	}
	name := "meros-" + machine
	file := filepath.Join(filepath.Dir(pl.Self), name)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if file, err := exec.LookPath(name); err == nil {
		return file, nil
	}
	without := "`--rootfs-only` builds the disk without it"
	if pl.RootfsOnly {
		without = "hooks that run in the sandbox do not need it"
	}
	return "", &NoProgramError{machine, file, without}
}

// NoProgramError says that there is no meros for the architecture of a machine, whose
// first program it is.
type NoProgramError struct{ Arch, File, without string }

func (e *NoProgramError) Error() string {
	return fmt.Sprintf("the first program of a machine of %s is meros itself, and there is no %s", e.Arch, e.File)
}

// Hint returns how to get the program, and how to do without it.
func (e *NoProgramError) Hint() string {
	return fmt.Sprintf("build it in meros' source: `CGO_ENABLED=0 GOARCH=%s go build -o %s ./cmd/meros`\n%s", arch.Go(e.Arch), e.File, e.without)
}
