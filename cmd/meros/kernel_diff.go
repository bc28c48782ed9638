// This file is the verb kernel diff.

package main

import (
	"fmt"
	"os"
	"strings"

	"meros/graph"
	"meros/runner/kernel"
	"meros/stages"
)

type kernelDiffCmd struct {
	A string `arg:"" help:"A .config file, CONSTELLATION or CONSTELLATION/MACHINE."`
	B string `arg:"" help:"The other one, named the same way."`
}

// Run implements the verb.
func (c *kernelDiffCmd) Run(e *env) error {
	if done, err := e.inNamespace("kernel", "diff", c.A, c.B); done {
		return err
	}
	var configs [2]kernel.Config
	for i, name := range []string{c.A, c.B} {
		file, err := kernelConfigFile(e, name)
		if err != nil {
			return err
		}
		if configs[i], err = kernel.ReadConfigFile(file); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, change := range kernel.Diff(configs[0], configs[1]) {
		e.ui.say("%s", change)
	}
	return nil
}

// kernelConfigFile returns the file of that name, or the configuration of a machine's
// kernel, which it builds if the cache does not have it.
func kernelConfigFile(e *env, name string) (string, error) {
	if fi, err := os.Stat(name); err == nil && fi.Mode().IsRegular() {
		return name, nil
	}
	constellation, machine, _ := strings.Cut(name, "/")
	r := &kernelRequest{Constellation: constellation, Machine: machine}
	m, vm, err := r.load(e)
	if err != nil {
		return "", err
	}
	w, err := openWorkspace(e)
	if err != nil {
		return "", err
	}
	defer w.close()
	plan, built, err := r.plan(e, w, m, vm)
	if err != nil {
		return "", err
	}
	result, err := w.execute(e, plan, []*graph.Node{built.Config}, execution{name: "the configuration of " + name, quiet: true})
	if err != nil {
		return "", err
	}
	return w.store.Path(result.Outputs[built.Config][stages.OutConfig].Digest), nil
}
