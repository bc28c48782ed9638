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

// adviseHooks tells how hooks that ran with a network, and only installed
// packages there, would need none.
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
					e.ui.note("%s/%s: %s installs packages from a network, whatever there is that day; named in \"packages:\" they are pinned, and cached", pm.Constellation, pm.Name, filepath.Join(dir, "hooks", filepath.Base(f)))
				}
			}
		}
	}
}

// tellOmitted tells what is in the machine's disk and in no tree of its files.
func tellOmitted(e *env, w *workspace, pm *stages.Machine, format string, r *graph.Result) error {
	a := r.Outputs[pm.Base][stages.OutOmitted]
	if !stages.OfTree(format) || a.Digest == "" {
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
			e.ui.note("%s/%s: %s that its base may have are not in a %s: a qcow2 or raw image has them", pm.Constellation, pm.Name, o.What, format)
			continue
		}
		e.ui.note("%s/%s: the %s of its base (%d, such as %s) are not in a %s: a qcow2 or raw image has them", pm.Constellation, pm.Name, o.What, o.Count, printable(o.First), format)
	}
	return err
}
