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
	"meros/runner/arch"
	"meros/stages"
	"meros/stages/pin"
)

func (w *workplace) statsFile() string { return filepath.Join(w.data, "cache", "memo") }

func (w *workplace) historyFile() string { return filepath.Join(w.data, "cache", "durations.json") }

// remember keeps what helps the next build and costs nothing to lose.
func (w *workplace) remember(r *graph.Result, of string) {
	w.stats.Write(w.statsFile(), w.scratch.Dir())
	w.rememberLast(r, of, time.Now())
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

func (w *workplace) close() { w.scratch.Close() }

// workplace is the data directory, opened for building.
type workplace struct {
	data    string
	store   *cache.Store
	scratch *cache.Scratch
	stats   *graph.StatCache
	history graph.History
}

// options are those of a plan for the machines, on this host.
func (w *workplace) options(e *env, m *constellations.Manifest, machines []*constellations.Machine, boot bool) (stages.Options, error) {
	self, err := os.Executable()
	return stages.Options{
		Root: e.root, Self: self, Host: arch.Host(), OCI: openOCI, Tools: stages.ToolIdentities(machines, boot, w.stats), URLs: pin.NewMirrors().URLs, StatCache: w.stats,
	}, err
}

// readMemory reads what helps and costs nothing to lose.
func (w *workplace) readMemory() {
	w.stats = graph.ReadStatCache(w.statsFile(), time.Now())
	w.history = make(graph.History)
	if b, err := os.ReadFile(w.historyFile()); err == nil {
		json.Unmarshal(b, &w.history) // a guess at durations; without it, the order is a worse one
	}
	if w.history == nil { // "null"
		w.history = make(graph.History)
	}
}

// openStore opens the cache alone.
func (e *env) openStore(readOnly bool) (*cache.Store, error) {
	return cache.Open(filepath.Join(e.root, "data", "cache"), cache.Options{ReadOnly: readOnly})
}

// scratchDir is where runs have their scratch directories: within the store, so
// that what they make can be renamed into it. data/cache may be a link, or
// mounted by itself, and even a directory of the same file system that is
// mounted is another one to rename(2).
func (e *env) scratchDir() string { return filepath.Join(e.root, "data", "cache", "build") }

// oldScratchDir is where earlier versions had them.
func (e *env) oldScratchDir() string { return filepath.Join(e.root, "data", "build") }

// eachScratchDir does something to both, and returns the sum.
func (e *env) eachScratchDir(do func(parent string) (int, error)) (int, error) {
	n, err := do(e.scratchDir())
	if err != nil {
		return n, err
	}
	old, err := do(e.oldScratchDir())
	return n + old, err
}

func openWorkplace(e *env) (*workplace, error) {
	w := &workplace{data: filepath.Join(e.root, "data")}
	hint := func(err error) error {
		return fmt.Errorf("%w (the data directory must be writable, and have room: meros cache gc makes some; --root DIR chooses another)", err)
	}
	if err := os.MkdirAll(filepath.Join(w.data, "cache", "partial"), 0o755); err != nil {
		return nil, hint(err)
	}
	// In them are the programs of guests, setuid ones among them, and their
	// shadow files: nobody else's to run or to read.
	for _, d := range []string{filepath.Join(w.data, "cache"), e.scratchDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, hint(err)
		}
		if err := os.Chmod(d, 0o700); err != nil {
			return nil, hint(err)
		}
	}
	if n, err := e.eachScratchDir(cache.Reclaim); err != nil {
		e.ui.note("what a killed build left behind could not be removed: %v", err)
	} else if n > 0 {
		e.ui.note("removed what %d killed builds had left behind", n)
	}
	unix.Rmdir(e.oldScratchDir()) // once it is empty
	var err error
	if w.store, err = cache.Open(filepath.Join(w.data, "cache"), cache.Options{Delivered: e.outputMode}); err != nil {
		return nil, hint(err)
	}
	if w.scratch, err = w.store.NewScratch(e.scratchDir()); err != nil {
		return nil, hint(err)
	}
	w.readMemory()
	return w, nil
}

// scratch is a directory of the project for files on their way, outside of a
// build. Close removes it; if this process is killed, the next that makes one
// does, or the next build.
func (e *env) scratch() (*cache.Scratch, error) {
	// Programs of guests may be in it, setuid ones among them.
	err := errors.Join(os.MkdirAll(filepath.Join(e.root, "data"), 0o755), os.MkdirAll(e.scratchDir(), 0o700))
	if err != nil {
		return nil, fmt.Errorf("make a work directory: %w (the data directory must be writable, and have room: meros cache gc makes some; --root DIR chooses another)", err)
	}
	if _, err := e.eachScratchDir(cache.Reclaim); err != nil {
		e.ui.note("what a killed run left behind could not be removed: %v", err)
	}
	return cache.NewScratch(e.scratchDir())
}
