// This file is the verb kernel config: it opens the menu of a kernel, and writes the
// changes to a fragment.

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
	"meros/runner/hint"
	"meros/runner/layer"
	"meros/stages"
)

type kernelConfigCmd struct {
	Constellation string `arg:"" optional:"" help:"Name of the constellation (default: upstream's kernel as the first build pinned it)."`
	Machine       string `arg:"" optional:"" help:"Name of the machine."`
	Source        string `help:"Source, as for kernel-build." placeholder:"SOURCE"`
	Output        string `short:"o" help:"File for the fragment." placeholder:"FILE" default:"kernel.config" type:"path"`
	Menu          string `help:"Make target: ${enum}." enum:"menuconfig,nconfig" default:"menuconfig"`
}

func (c *kernelConfigCmd) args() []string {
	return commandLine(kernelWords([]string{"kernel", "config"}, c.Constellation, c.Machine), map[string]any{"source": c.Source, "output": c.Output, "menu": c.Menu})
}

// Run implements the verb.
func (c *kernelConfigCmd) Run(e *env) error {
	build := &kernelRequest{Constellation: c.Constellation, Machine: c.Machine, Source: c.Source}
	m, vm, err := build.load(e)
	if err != nil {
		return err
	}
	if done, err := e.inNamespace(c.args()...); done {
		return err
	}
	if _, err := os.Lstat(c.Output); err == nil {
		return usageError{hint.Add(fmt.Errorf("%s exists already", c.Output), "name another file: --output FILE")}
	}
	w, err := openWorkspace(e)
	if err != nil {
		return err
	}
	defer w.close()
	fragment, err := c.edit(e, w, build, m, vm)
	if err != nil {
		return err
	}
	if len(fragment) == 0 {
		e.ui.note("nothing was changed: no fragment is written")
		return nil
	}
	if err := os.WriteFile(c.Output, fragment, 0o644); err != nil {
		return err
	}
	e.ui.note("wrote %s; `kernel: {config: [...]}` in the manifest uses it", c.Output)
	return nil
}

// edit runs the menu and returns the fragment. The menu is not a stage: its output depends
// on the user.
func (c *kernelConfigCmd) edit(e *env, w *workspace, build *kernelRequest, m *constellations.Manifest, vm *constellations.Machine) ([]byte, error) {
	plan, kernel, err := build.plan(e, w, m, vm)
	if err != nil {
		return nil, err
	}
	node := stages.KernelMenu(kernel, c.Menu, os.Getenv("TERM"))
	targets := []*graph.Node{kernel.Config}
	for _, in := range node.Inputs {
		targets = append(targets, in.Node)
	}
	r, err := w.execute(e, plan, targets, execution{name: "the configuration", quiet: true})
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(w.scratch.Dir(), "menu-*")
	if err != nil {
		return nil, err
	}
	job := &graph.Job{Node: node, Out: filepath.Join(dir, "out"), Work: filepath.Join(dir, "work"), CPU: 1, Log: os.Stderr}
	for _, d := range []string{job.Out, job.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	for _, in := range node.Inputs {
		a := r.Outputs[in.Node][in.Output]
		path := w.store.Path(a.Digest)
		if in.Form == graph.Tree {
			if path, err = w.store.Tree(e.ctx, a, layer.Unpack); err != nil {
				return nil, err
			}
		}
		job.Inputs = append(job.Inputs, graph.JobInput{Path: path, Artifact: a})
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	e.ui.close()
	terminal := func(*graph.Job) runner.Stdio {
		return runner.Stdio{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	}
	if err := (&graph.Sandboxed{Self: self, Run: runner.Run, Watch: terminal}).RunJob(e.ctx, job); err != nil {
		return nil, fmt.Errorf("make %s: %w", c.Menu, err)
	}
	return os.ReadFile(filepath.Join(job.Out, stages.OutFragment))
}
