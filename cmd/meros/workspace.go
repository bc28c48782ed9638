// This file opens a project's data directory for building, and keeps between
// builds what makes the next one faster. Losing any of that costs only time.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"meros/cache"
	"meros/constellations"
	"meros/graph"
	"meros/graph/record"
	"meros/runner/arch"
	"meros/runner/hint"
	"meros/stages"
	"meros/stages/pin"
)

// workspace is a project's data directory, opened for building.
type workspace struct {
	project
	store   *cache.Store
	scratch *cache.Scratch
	stats   *graph.StatCache
	history graph.History
}

// openWorkspace makes the directories that a build needs, cleans up after killed
// builds and opens the cache.
func openWorkspace(e *env) (*workspace, error) {
	w := &workspace{project: e.project}
	if err := os.MkdirAll(w.partialDir(), 0o755); err != nil {
		return nil, needsData(err)
	}
	// They hold the programs of guests, some of them setuid, and shadow files:
	// no other user may run or read these.
	for _, d := range []string{w.cacheDir(), w.scratchDir()} {
		err := os.MkdirAll(d, 0o700)
		if err == nil {
			err = os.Chmod(d, 0o700)
		}
		if err != nil {
			return nil, needsData(err)
		}
	}
	if n, err := e.eachScratchDir(cache.Reclaim); err != nil {
		e.ui.note("cannot clean up after an interrupted build: %v", err)
	} else if n == 1 {
		e.ui.note("cleaned up after an interrupted build")
	} else if n > 1 {
		e.ui.note("cleaned up after %d interrupted builds", n)
	}
	unix.Rmdir(w.oldScratchDir()) // succeeds once it is empty
	var err error
	if w.store, err = cache.Open(w.cacheDir(), cache.Options{Delivered: e.outputMode}); err != nil {
		return nil, needsData(err)
	}
	if w.scratch, err = w.store.NewScratch(w.scratchDir()); err != nil {
		return nil, needsData(err)
	}
	w.readMemory()
	return w, nil
}

func (w *workspace) close() { w.scratch.Close() }

// workspaceToRead returns a workspace that can plan and not build. Its store is
// not open.
func (e *env) workspaceToRead() *workspace {
	w := &workspace{project: e.project}
	w.readMemory()
	return w
}

// needsData adds a hint to an error about the data directory.
func needsData(err error) error {
	return hint.Add(err, "data/ must be writable and have free space: `meros cache gc` frees some, --root DIR chooses another project")
}

// openStore opens the cache alone.
func (e *env) openStore(readOnly bool) (*cache.Store, error) {
	return cache.Open(e.cacheDir(), cache.Options{ReadOnly: readOnly})
}

// eachScratchDir calls do for the scratch directory of this version and of
// earlier ones, and returns the sum.
func (p project) eachScratchDir(do func(parent string) (int, error)) (int, error) {
	n, err := do(p.scratchDir())
	if err != nil {
		return n, err
	}
	old, err := do(p.oldScratchDir())
	return n + old, err
}

// scratch makes a directory for temporary files, outside of a build. Close
// removes it. If this process is killed, the next scratch or build removes it.
func (e *env) scratch() (*cache.Scratch, error) {
	// It may hold programs of guests, some of them setuid.
	if err := errors.Join(os.MkdirAll(e.dataDir(), 0o755), os.MkdirAll(e.scratchDir(), 0o700)); err != nil {
		return nil, needsData(fmt.Errorf("make a work directory: %w", err))
	}
	if _, err := e.eachScratchDir(cache.Reclaim); err != nil {
		e.ui.note("cannot clean up after an interrupted run: %v", err)
	}
	return cache.NewScratch(e.scratchDir())
}

// options returns the options of a plan for the machines, on this host.
func (w *workspace) options(e *env, m *constellations.Manifest, machines []*constellations.Machine, boot bool) (stages.Options, error) {
	self, err := os.Executable()
	return stages.Options{
		Root: e.root, Self: self, Host: arch.Host(), OCI: openOCI, Tools: stages.ToolIdentities(machines, boot, w.stats), URLs: pin.NewMirrors().URLs, StatCache: w.stats,
	}, err
}

func (w *workspace) statsFile() string { return filepath.Join(w.cacheDir(), "memo") }

func (w *workspace) historyFile() string { return filepath.Join(w.cacheDir(), "durations.json") }

func (w *workspace) lastFile() string { return filepath.Join(w.cacheDir(), "last") }

// readMemory reads what remember wrote.
func (w *workspace) readMemory() {
	w.stats = graph.ReadStatCache(w.statsFile(), time.Now())
	w.history = make(graph.History)
	if b, err := os.ReadFile(w.historyFile()); err == nil {
		json.Unmarshal(b, &w.history) // without durations, the order of nodes is worse
	}
	if w.history == nil { // the file says "null"
		w.history = make(graph.History)
	}
}

// remember writes what helps the next build.
func (w *workspace) remember(r *graph.Result, of string) {
	w.stats.Write(w.statsFile(), w.scratch.Dir())
	record.UpdateLast(w.lastFile(), w.scratch.Dir(), r, of, time.Now())
	for _, outputs := range r.Outputs {
		w.store.Use(outputs)
	}
	if len(r.Durations) == 0 {
		return
	}
	for n, d := range r.Durations {
		w.history[n] = d
	}
	if b, err := json.Marshal(w.history); err == nil {
		tmp := filepath.Join(w.scratch.Dir(), "durations.json")
		if os.WriteFile(tmp, b, 0o644) == nil {
			os.Rename(tmp, w.historyFile())
		}
	}
}
