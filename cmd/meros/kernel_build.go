// This file is the verb kernel-build.

package main

import (
	"path/filepath"

	"meros/graph"
	"meros/stages"
)

type kernelBuildCmd struct {
	Constellation string   `arg:"" optional:"" help:"Name of the constellation (default: upstream's kernel as the first build pinned it)."`
	Machine       string   `arg:"" optional:"" help:"Name of the machine."`
	Source        string   `help:"Source: git, the URL of a repository or of a tar archive, debian:PACKAGE, or a directory." placeholder:"SOURCE"`
	Ref           string   `help:"Branch, tag or commit of a git repository." placeholder:"REF"`
	Base          string   `help:"Configuration to start from: tiny, defconfig, running, or a file." placeholder:"BASE"`
	Config        []string `help:"Fragment of a configuration; can be repeated." placeholder:"FRAGMENT" sep:"none"`
	Patch         []string `help:"Patch to apply; can be repeated." placeholder:"PATCH" sep:"none"`
	Toolchain     string   `help:"Compiler: gcc or clang." enum:",gcc,clang" default:"" placeholder:"NAME"`
	Arch          string   `help:"Architecture, as in qemu-system-ARCH." placeholder:"ARCH"`
	Output        string   `short:"o" help:"File for the kernel (default: data/disks/bzImage)." placeholder:"FILE" type:"path"`
	Locked        bool     `help:"Fail if the lock would have to change."`
	Jobs          int      `short:"j" help:"Number of CPUs to use (default: all)."`
}

func (c *kernelBuildCmd) args() []string {
	return commandLine(kernelWords([]string{"kernel-build"}, c.Constellation, c.Machine), map[string]any{
		"source": c.Source, "ref": c.Ref, "base": c.Base, "config": c.Config, "patch": c.Patch, "toolchain": c.Toolchain, "arch": c.Arch,
		"output": c.Output, "locked": c.Locked, "jobs": c.Jobs,
	})
}

// Run implements the verb.
func (c *kernelBuildCmd) Run(e *env) error {
	r := &kernelRequest{
		Constellation: c.Constellation, Machine: c.Machine, Source: c.Source, Ref: c.Ref, Base: c.Base, Config: c.Config, Patch: c.Patch,
		Toolchain: c.Toolchain, Arch: c.Arch, Locked: c.Locked,
	}
	m, vm, err := r.load(e)
	if err != nil {
		return err
	}
	if c.Output != "" {
		if err := e.checkOutput(c.Output); err != nil {
			return err
		}
	}
	if done, err := e.inNamespace(c.args()...); done {
		return err
	}
	w, err := openWorkspace(e)
	if err != nil {
		return err
	}
	defer w.close()
	plan, kernel, err := r.plan(e, w, m, vm)
	if err != nil {
		return err
	}
	file := c.Output
	if file == "" {
		file = filepath.Join(e.disksDir(), "bzImage")
	}
	if err := checkInputs(file, m, plan.Nodes); err != nil {
		return err
	}
	image := stages.Copy(plan, kernel.Compile, stages.OutKernel, filepath.Base(file), file)
	if _, err := w.execute(e, plan, []*graph.Node{image}, execution{name: m.Name, verb: "kernel-build", machines: []string{vm.Name}, jobs: c.Jobs}); err != nil {
		return err
	}
	e.ui.say("%s", file)
	return nil
}
