// This file gives advice about hooks that install packages, and about exports that leave
// something out.

package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"meros/graph"
	"meros/runner/layer"
	"meros/stages"
)

// adviseHooks names the hooks that ran and use the network to install packages: the
// manifest can pin those.
func adviseHooks(e *env, machines []*stages.Machine, r *graph.Result) {
	for _, pm := range machines {
		name := pm.Constellation + "/" + pm.Name + " hooks"
		_, ran := r.Durations[name]
		_, inside := r.Durations[name+" in the machine"]
		if !ran && !inside || !pm.Hooks.Network {
			continue
		}
		for _, dir := range []string{"common", pm.Name} {
			files, _ := filepath.Glob(filepath.Join(e.constellationsDir(), pm.Constellation, dir, "hooks", "*.chroot"))
			for _, f := range files {
				if b, err := os.ReadFile(f); err == nil && stages.InstallsPackages(b) {
					e.ui.note("%s/%s: %s installs packages from a network, in whatever version it has; `packages:` in the manifest pins and caches them", pm.Constellation, pm.Name, filepath.Join(dir, "hooks", filepath.Base(f)))
				}
			}
		}
	}
}

// tellOmitted notes what the disk of the machine has and the tree of its files lacks.
func tellOmitted(e *env, w *workspace, pm *stages.Machine, format string, r *graph.Result) error {
	a := r.Outputs[pm.Base][stages.OutOmitted]
	if !stages.OfTree(format) || a.Digest == "" {
		return nil
	}
	b, err := os.ReadFile(w.store.Path(a.Digest))
	if errors.Is(err, fs.ErrNotExist) { // a collection removed it
		return nil
	}
	var omitted []layer.Omission
	if err == nil {
		err = json.Unmarshal(b, &omitted)
	}
	for _, o := range omitted {
		if o.Count == 0 {
			e.ui.note("%s/%s: %s that its base may have are not in a %s; qcow2 and raw images have them", pm.Constellation, pm.Name, o.What, format)
			continue
		}
		e.ui.note("%s/%s: the %s of its base (%d, such as %s) are not in a %s; qcow2 and raw images have them", pm.Constellation, pm.Name, o.What, o.Count, printable(o.First), format)
	}
	return err
}
