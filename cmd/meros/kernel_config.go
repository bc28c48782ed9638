package main

import (
	"fmt"
	"os"
	"path/filepath"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
	"meros/runner/layer"
	"meros/stages"
)

type kernelConfigCmd struct {
	Constellation string `arg:"" optional:"" help:"Configure the kernel of a constellation; default: upstream's."`
	Machine       string `arg:"" optional:"" help:"The kernel of this machine."`
	Source        string `help:"Where the source is from, as for kernel-build." placeholder:"SOURCE"`
	Output        string `short:"o" help:"Fragment that the difference is written to." placeholder:"FILE" default:"kernel.config" type:"path"`
	Menu          string `help:"The make target: menuconfig, or nconfig." enum:"menuconfig,nconfig" default:"menuconfig"`
}

func (c *kernelConfigCmd) args() []string {
	return commandLine(kernelWords([]string{"kernel", "config"}, c.Constellation, c.Machine), map[string]any{"source": c.Source, "output": c.Output, "menu": c.Menu})
}

// Run implements the verb: it opens the kernel's own menu on what the manifest
// comes to, and writes down what was changed there.
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
		return usageError{fmt.Errorf("%s is there already (--output FILE names another)", c.Output)}
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
		e.ui.note("nothing was changed")
		return nil
	}
	if err := os.WriteFile(c.Output, fragment, 0o644); err != nil {
		return err
	}
	e.ui.note("wrote %s; it counts when it is among the manifest's kernel: {config: [...]}", c.Output)
	return nil
}

// edit runs the menu, which is no stage: what it gives is the user's.
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
