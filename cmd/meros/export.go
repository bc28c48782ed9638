package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"meros/cache"
	"meros/constellations"
	"meros/graph"
	"meros/runner/layer"
	"meros/stages"
)

type exportCmd struct {
	Constellation string `arg:"" help:"Name of the constellation."`
	Machine       string `arg:"" help:"Name of the machine."`
	Format        string `enum:"qcow2,raw,tar,oci,squashfs,erofs" default:"qcow2" help:"What to make: ${enum}."`
	Compress      string `enum:",zstd" default:"" placeholder:"zstd" help:"zstd, or nothing."`
	Output        string `short:"o" type:"path" placeholder:"FILE" help:"Where it is put (default: CONSTELLATION-MACHINE and the format's ending, here)."`
	Locked        bool   `help:"Fail instead of changing meros.lock."`
}

func (c *exportCmd) args() []string {
	a := []string{"export", c.Constellation, c.Machine, "--format=" + c.Format, "--output=" + c.Output}
	if c.Compress != "" {
		a = append(a, "--compress="+c.Compress)
	}
	if c.Locked {
		a = append(a, "--locked")
	}
	return a
}

// Run implements the verb: it builds the machine and puts it into a file.
func (c *exportCmd) Run(e *env) error {
	if c.Format == "erofs" && c.Compress != "" {
		return usageError{errors.New("erofs is not compressed with zstd by the mkfs.erofs of most distributions (leave --compress out)")}
	}
	m, machines, err := (&buildCmd{Constellation: c.Constellation, Machine: []string{c.Machine}}).load(e)
	if err != nil {
		return err
	}
	if c.Output == "" {
		ending := stages.ExportFormats[c.Format]
		if c.Compress != "" && (c.Format == "raw" || c.Format == "tar") {
			ending += ".zst"
		}
		if c.Output, err = filepath.Abs(c.Constellation + "-" + c.Machine + ending); err != nil {
			return err
		}
	}
	if err := e.checkOutput(c.Output); err != nil {
		return err
	}
	inside, err := stages.HasHooksInMachine(m, machines[0])
	if err != nil {
		return err
	}
	if inside && c.Format != "qcow2" && c.Format != "raw" {
		return usageError{fmt.Errorf("the hooks of %s run in the machine itself, which leaves an image of its disk: it is exported as qcow2 or raw", c.Machine)}
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
	w, err := openWorkplace(e)
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
		o.Tools[t] = stages.ToolIdentity(t, w.memo)
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
	if err != nil || c.Format == "qcow2" || c.Format == "raw" {
		return err
	}
	return c.tellOmitted(e, w, r.Outputs[planned[0].Base]["omitted"])
}

// tellOmitted tells what is in the machine's disk and in no tree of its files.
func (c *exportCmd) tellOmitted(e *env, w *workplace, a cache.Artifact) error {
	if a.Digest == "" {
		return nil
	}
	b, err := os.ReadFile(w.store.Path(a.Digest))
	if errors.Is(err, fs.ErrNotExist) { // the cache had to make room
		return nil
	}
	var omitted []layer.Omission
	if err == nil {
		err = json.Unmarshal(b, &omitted)
	}
	for _, o := range omitted {
		if o.Count == 0 {
			e.ui.note("%s/%s: %s that its base may have are not in a %s: a qcow2 or raw image has them", c.Constellation, c.Machine, o.What, c.Format)
			continue
		}
		e.ui.note("%s/%s: the %s of its base (%d, such as %s) are not in a %s: a qcow2 or raw image has them", c.Constellation, c.Machine, o.What, o.Count, printable(o.First), c.Format)
	}
	return err
}
