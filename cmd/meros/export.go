// This file is the verb export.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"

	"meros/constellations"
	"meros/graph"
	"meros/runner/hint"
	"meros/stages"
)

type exportCmd struct {
	Constellation string `arg:"" help:"Name of the constellation."`
	Machine       string `arg:"" help:"Name of the machine."`
	Format        string `enum:",qcow2,raw,tar,oci,squashfs,erofs" default:"" placeholder:"FORMAT" help:"Format: qcow2, raw, tar, oci, squashfs or erofs (default: the manifest's, or qcow2)."`
	Compress      string `enum:",zstd" default:"" placeholder:"zstd" help:"Compression: zstd (default: the manifest's, if the format is the manifest's)."`
	Output        string `short:"o" type:"path" placeholder:"FILE" help:"File to write (default: CONSTELLATION-MACHINE and the ending of the format, here)."`
	Locked        bool   `help:"Fail if meros.lock would have to change."`
}

func (c *exportCmd) args() []string {
	return commandLine([]string{"export", c.Constellation, c.Machine}, map[string]any{
		"format": c.Format, "compress": c.Compress, "output": c.Output, "locked": c.Locked,
	})
}

// Run implements the verb.
func (c *exportCmd) Run(e *env) error {
	m, machines, err := (&request{Constellation: c.Constellation, Machines: []string{c.Machine}}).load(e)
	if err != nil {
		return err
	}
	if c.Format == "" {
		c.Format = cmp.Or(machines[0].Format, "qcow2")
		c.Compress = cmp.Or(c.Compress, machines[0].Compress)
	}
	if c.Format == "erofs" && c.Compress != "" {
		return usageError{hint.Add(errors.New("the mkfs.erofs of most distributions cannot compress with zstd"), "leave out --compress")}
	}
	if c.Output == "" {
		if c.Output, err = filepath.Abs(c.Constellation + "-" + c.Machine + stages.ExportEnding(c.Format, c.Compress)); err != nil {
			return err
		}
	}
	if err := e.checkOutput(c.Output); err != nil {
		return err
	}
	inside, err := stages.HasHooksInVM(m, machines[0])
	if err != nil {
		return err
	}
	if inside && stages.OfTree(c.Format) {
		return usageError{fmt.Errorf("export %s/%s as %s: %w", c.Constellation, c.Machine, c.Format, stages.ErrOnlyDisk)}
	}
	if done, err := e.inNamespace(c.args()...); done {
		return err
	}
	if err := c.export(e, m, machines); err != nil {
		return err
	}
	e.ui.say("%s", c.Output)
	return nil
}

func (c *exportCmd) export(e *env, m *constellations.Manifest, machines []*constellations.Machine) error {
	w, err := openWorkspace(e)
	if err != nil {
		return err
	}
	defer w.close()
	lock, err := ensureLock(e, m, stages.Needs(machines), c.Locked)
	if err != nil {
		return err
	}
	o, err := w.options(e, m, machines, false)
	if err != nil {
		return err
	}
	o.RootfsOnly = true
	if t := stages.ExportTool(c.Format); t != "" {
		o.Tools[t] = stages.ToolIdentity(t, w.stats)
	}
	plan := new(graph.Plan)
	planned, err := stages.Plan(plan, m, machines, lock, o)
	if err != nil {
		return err
	}
	if err := checkInputs(c.Output, m, plan.Nodes); err != nil {
		return err
	}
	target := stages.Export(plan, planned[0], o, c.Format, c.Compress, c.Output)
	r, err := w.execute(e, plan, []*graph.Node{target}, execution{name: m.Name, verb: "export", machines: []string{c.Machine}})
	if err != nil {
		return err
	}
	return tellOmitted(e, w, planned[0], c.Format, r)
}
