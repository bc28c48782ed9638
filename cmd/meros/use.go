package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"meros/constellations"
	"meros/stages"
)

// useImage makes the image the machine's base.
func (c *buildCmd) useImage(e *env, machines []*constellations.Machine) error {
	if len(machines) != 1 {
		return usageError{fmt.Errorf("--use is for one machine, and these are %d (name one)", len(machines))}
	}
	base, err := baseFromHere(c.Use)
	if err != nil {
		return usageError{fmt.Errorf("--use %s: %w", c.Use, err)}
	}
	if len(machines[0].Packages) > 0 && !e.entered && !c.advised {
		c.advised = true
		e.ui.note("the manifest's packages are not installed into %s: it has its own", c.Use)
	}
	c.Use = base       // the namespace's process may be elsewhere
	vm := *machines[0] // the manifest stays what it is: its lock is kept by it
	if vm.Base != base {
		vm.Base, vm.BaseSHA256 = base, ""
	}
	vm.Packages = nil
	machines[0] = &vm
	return nil
}

// baseFromHere is what a command line calls a base, as a manifest does: paths
// are relative to where the user is, and not to the project. What is in a file
// has to be there; of what is in a network, the lock or its server tells.
func baseFromHere(use string) (string, error) {
	if problem, right := constellations.BaseProblem(use); problem != "" {
		return "", fmt.Errorf("%s (such as %s)", problem, right)
	}
	if constellations.ImageURL(use) || constellations.OfRegistry(use) {
		return use, nil
	}
	name, containers := strings.CutPrefix(use, stages.OCIPrefix)
	file, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	if containers {
		_, _, err := stages.FindOCI("", nil, file)
		return stages.OCIPrefix + file, err
	}
	fi, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", errors.New("there is no such image (one of a registry is docker://NAME:TAG)")
	case err != nil:
		return "", err
	case fi.IsDir():
		return "", errors.New("this is a directory (if an image of containers is in it: oci:PATH)")
	case !fi.Mode().IsRegular():
		return "", errors.New("this is no file (qemu-img convert makes one of a device)")
	}
	return file, nil
}
