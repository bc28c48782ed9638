package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"

	"meros/constellations"
	"meros/stages"
)

// givenImage is the value of --use.
type givenImage string

// Decode implements kong.MapperValue. An image without a name, of a variable that
// is not set, is not as good as none: another machine would be made.
func (g *givenImage) Decode(ctx *kong.DecodeContext) error {
	var name string
	if err := ctx.Scan.PopValueInto("image", &name); err != nil {
		return err
	}
	if name == "" {
		return errors.New("no image is named (is a variable empty?)")
	}
	*g = givenImage(name)
	return nil
}

// useImage makes the image the machine's base.
func (c *buildCmd) useImage(e *env, machines []*constellations.Machine) error {
	if len(machines) != 1 {
		return usageError{fmt.Errorf("--use is for one machine, and these are %d (name one)", len(machines))}
	}
	base, err := baseFromHere(string(c.Use))
	if err != nil {
		return usageError{fmt.Errorf("--use %s: %w", c.Use, err)}
	}
	if len(machines[0].Packages) > 0 && !e.entered && !c.advised {
		c.advised = true
		e.ui.note("the manifest's packages are not installed into %s: it has its own", c.Use)
	}
	c.Use = givenImage(base) // the namespace's process may be elsewhere
	vm := *machines[0]       // the manifest stays what it is: its lock is kept by it
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
	err = stages.ImageFile(file, true)
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New("there is no such image (one of a registry is docker://NAME:TAG)")
	}
	return file, err
}
