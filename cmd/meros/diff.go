// This file is the verb diff: it compares the systems of two builds or images.

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"meros/cache"
	"meros/graph"
	"meros/graph/record"
	"meros/runner/hint"
	"meros/runner/layer"
	"meros/stages"
)

type diffCmd struct {
	A       string `arg:"" help:"An image, the ID of a build in meros history, or a constellation for its newest build. Add /MACHINE to a build or a constellation to compare one machine."`
	B       string `arg:"" help:"The other one, named the same way."`
	JSON    bool   `name:"json" help:"Print JSON: [{\"machine\", \"packages\": [{\"name\", \"before\", \"after\"}], \"files\": [{\"path\", \"change\", \"what\"}]}]; change is added, removed or changed."`
	ExitOne bool   `name:"exit-code" help:"Exit with status 1 if there are differences."`
}

func (c *diffCmd) args() []string {
	return commandLine([]string{"diff", c.A, c.B}, map[string]any{"json": c.JSON, "exit-code": c.ExitOne})
}

// machineDiff holds the differences between two systems of a machine.
type machineDiff struct {
	Machine  string             `json:"machine,omitempty"`
	Packages []graph.Difference `json:"packages"`
	Files    []layer.Change     `json:"files"`
}

// Run implements the verb.
func (c *diffCmd) Run(e *env) error {
	for _, s := range []*string{&c.A, &c.B} {
		if fi, err := os.Stat(*s); err == nil && fi.Mode().IsRegular() {
			if *s, err = filepath.Abs(*s); err != nil {
				return err
			}
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
	a, err := w.systemsOf(e, c.A)
	if err != nil {
		return err
	}
	b, err := w.systemsOf(e, c.B)
	if err != nil {
		return err
	}
	all, err := c.compare(e, a, b)
	if err != nil {
		return err
	}
	if c.JSON {
		err = e.sayJSON(all)
	} else {
		for _, d := range all {
			d.print(e)
		}
	}
	if c.ExitOne && (len(all) < max(len(a), len(b)) || slices.ContainsFunc(all, func(d machineDiff) bool { return len(d.Packages)+len(d.Files) > 0 })) {
		return cmp.Or(err, error(exitStatus(exitFailed)))
	}
	return err
}

// systems maps machines to their layers, which are files of the store.
type systems map[string][]string

// systemsIn returns the layers of each machine whose image the build made, or of one
// machine.
func systemsIn(b *record.Build, store *cache.Store, only string) (systems, error) {
	all := make(systems)
	for _, s := range b.Stages {
		machine, what, ok := record.OwnedBy(b.Name, s.Name)
		if only != "" && machine != only && s.Stage == "hooks-vm" {
			continue
		}
		if ok && s.Stage == "hooks-vm" {
			return nil, hint.Add(fmt.Errorf("%s: the hooks of %s ran in the machine itself, so there is an image and no layers", b.ID, machine), "compare images: `meros diff OLD.qcow2 data/disks/%s-%s.qcow2`", b.Name, machine)
		}
		if !ok || s.Stage != "delta" || what != "image" {
			continue
		}
		for _, i := range s.Inputs {
			a, ok := b.Stages[i].Outputs[stages.OutLayer]
			if !ok {
				continue
			}
			if err := store.Has(a); err != nil {
				return nil, hint.Add(fmt.Errorf("%s: the output of %s is no longer in the cache: %w", b.ID, b.Stages[i].Name, err), "build it again")
			}
			all[machine] = append(all[machine], store.Path(a.Digest))
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: the build made no image", b.ID)
	}
	return all, nil
}

// These files list the installed packages.
const (
	dpkgStatus   = "var/lib/dpkg/status"
	apkInstalled = "lib/apk/db/installed"
)

// compare compares the machines that both sides have.
func (c *diffCmd) compare(e *env, a, b systems) ([]machineDiff, error) {
	all := []machineDiff{}
	names := slices.Sorted(maps.Keys(a))
	if len(a) == 1 && len(b) == 1 {
		for _, files := range b {
			b = systems{names[0]: files} // the names may differ
		}
	}
	for _, name := range names {
		after, ok := b[name]
		if !ok {
			e.ui.note("%s has no %s", c.B, name)
			continue
		}
		d, err := differ(e, a[name], after)
		if err != nil {
			return nil, err
		}
		d.Machine = name
		all = append(all, *d)
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			e.ui.note("%s has no %s", c.A, name)
		}
	}
	return all, nil
}

// differ compares two trees that layers make.
func differ(e *env, before, after []string) (*machineDiff, error) {
	d := &machineDiff{Packages: []graph.Difference{}, Files: []layer.Change{}}
	if slices.Equal(before, after) {
		return d, nil
	}
	a, err := layer.List(e.ctx, before, dpkgStatus, apkInstalled)
	if err != nil {
		return nil, err
	}
	b, err := layer.List(e.ctx, after, dpkgStatus, apkInstalled)
	if err != nil {
		return nil, err
	}
	d.Packages, d.Files = differInPackages(packagesIn(a), packagesIn(b)), layer.Changes(a, b)
	return d, nil
}

// packagesIn returns the versions of the installed packages, by name.
func packagesIn(l *layer.Listing) map[string]string {
	all := make(map[string]string)
	read := func(file, nameField, versionField string) {
		var name string
		s := bufio.NewScanner(bytes.NewReader(l.Contents[file]))
		s.Buffer(nil, 16<<20)
		for s.Scan() {
			if v, ok := strings.CutPrefix(s.Text(), nameField); ok {
				name = strings.TrimSpace(v)
			} else if v, ok := strings.CutPrefix(s.Text(), "Status:"); ok && !strings.HasSuffix(strings.TrimSpace(v), " installed") {
				name = "" // only its configuration is left
			} else if v, ok := strings.CutPrefix(s.Text(), versionField); ok && name != "" {
				all[name] = strings.TrimSpace(v)
			}
		}
	}
	read(dpkgStatus, "Package:", "Version:")
	read(apkInstalled, "P:", "V:")
	return all
}

// differInPackages compares two sets of packages.
func differInPackages(a, b map[string]string) []graph.Difference {
	all := []graph.Difference{}
	for name, was := range a {
		if is := b[name]; is != was {
			all = append(all, graph.Difference{Name: name, Before: was, After: is})
		}
	}
	for name, is := range b {
		if a[name] == "" {
			all = append(all, graph.Difference{Name: name, After: is})
		}
	}
	slices.SortFunc(all, func(x, y graph.Difference) int { return strings.Compare(x.Name, y.Name) })
	return all
}

// filesShown is how many files are printed without -v.
const filesShown = 100

func (d machineDiff) print(e *env) {
	if d.Machine != "" {
		e.ui.say("%s: %s and %s differ", d.Machine, counted(len(d.Packages), "package"), counted(len(d.Files), "file"))
	}
	for _, p := range d.Packages {
		e.ui.say("  package %s", p)
	}
	signs := map[string]string{"added": "+", "removed": "-", "changed": "~"}
	for i, f := range d.Files {
		if i == filesShown && !e.ui.verbose {
			e.ui.say("  and %d more files; -v lists them", len(d.Files)-i)
			break
		}
		e.ui.say("  %s", strings.TrimRight(signs[f.Change]+" "+printable(f.Path)+"  "+strings.Join(f.What, ", "), " "))
	}
	if len(d.Packages)+len(d.Files) == 0 && d.Machine == "" {
		e.ui.say("nothing differs")
	}
}

// systemsOf returns the systems of an image, a build, or one machine of a build.
func (w *workspace) systemsOf(e *env, what string) (systems, error) {
	if filepath.IsAbs(what) {
		files, err := w.imageLayers(e, what)
		return systems{"": files}, err
	}
	if strings.HasSuffix(what, ".qcow2") || strings.HasSuffix(what, ".raw") {
		return nil, usageError{fmt.Errorf("there is no such image: %s", what)}
	}
	ref, machine, one := strings.Cut(what, "/")
	b, err := e.records().Find(ref)
	if err != nil {
		return nil, err
	}
	all, err := systemsIn(b, w.store, machine)
	if err != nil || !one {
		return all, err
	}
	files, ok := all[machine]
	if !ok {
		return nil, usageError{fmt.Errorf("%s: the build made no image of %s (only of %s)", b.ID, machine, strings.Join(slices.Sorted(maps.Keys(all)), ", "))}
	}
	return systems{machine: files}, nil
}

// imageLayers reads an image that is not in the cache.
func (w *workspace) imageLayers(e *env, file string) ([]string, error) {
	plan := new(graph.Plan)
	n, err := stages.Read(plan, file, w.stats)
	if err != nil {
		return nil, err
	}
	r, err := w.execute(e, plan, []*graph.Node{n}, execution{name: filepath.Base(file), quiet: true})
	if err != nil {
		return nil, err
	}
	return []string{w.store.Path(r.Outputs[n][stages.OutLayer].Digest)}, nil
}
