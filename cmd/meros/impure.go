package main

import (
	"os"
	"path/filepath"

	"meros/graph"
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
			files, _ := filepath.Glob(filepath.Join(e.root, "constellations", pm.Constellation, dir, "hooks", "*.chroot"))
			for _, f := range files {
				if b, err := os.ReadFile(f); err == nil && stages.InstallsPackages(b) {
					e.ui.note("%s/%s: %s installs packages from a network, whatever there is that day; named in \"packages:\" they are pinned, and cached", pm.Constellation, pm.Name, filepath.Join(dir, "hooks", filepath.Base(f)))
				}
			}
		}
	}
}
