package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"meros/cache"
	"meros/constellations"
	"meros/graph/record"
	"meros/runner/vm"
)

// roots are what of the cache is needed, and by whom.
type roots struct {
	keep    map[digest.Digest]string // why an artifact must not be removed
	entries map[string]bool          // actions that current images are found by
	users   map[digest.Digest][]string
	names   []string // of constellations that there are
}

// Why an artifact is kept, the strongest reason first.
const (
	keptByMachine = "running machines"
	keptByPin     = "pins"
	keptByImage   = "current images"
	keptByLock    = "locks"
)

// findRoots reads what says what is needed: the machines' records, the pins,
// the newest builds of each constellation that there is, and the locks.
func findRoots(e *env, store *cache.Store) (*roots, error) {
	r := &roots{keep: make(map[digest.Digest]string), entries: make(map[string]bool), users: make(map[digest.Digest][]string)}
	files, err := vm.Files(e.stateDir())
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		r.add(digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(f)), keptByMachine)
	}
	pins, err := store.Pins()
	if err != nil {
		return nil, err
	}
	for _, all := range pins {
		for _, d := range all {
			r.add(d, keptByPin)
		}
	}
	if r.names, err = constellations.List(e.root); err != nil {
		return nil, err
	}
	for _, name := range r.names {
		if err := r.images(e, name); err != nil {
			return nil, err
		}
	}
	for _, l := range record.ReadLast(filepath.Join(store.Dir(), "last")) {
		r.entries[l.Action] = true
	}
	return r, r.locks(e)
}

func (r *roots) add(d digest.Digest, why string) {
	if _, ok := r.keep[d]; !ok && d.Validate() == nil {
		r.keep[d] = why
	}
}

// images adds what the newest builds of a constellation ended in, of those
// machines that the manifest has still.
func (r *roots) images(e *env, name string) error {
	var machines []string // nil: nobody knows
	if m, err := constellations.Find(e.root, name); err == nil {
		for _, vm := range m.Machines {
			machines = append(machines, vm.Name)
		}
	}
	builds, err := e.records().Newest(name, machines)
	for _, b := range builds {
		r.build(b)
	}
	return err
}

// locks adds what is pinned: it may not be there to download any more. The
// first lock is that of kernels alone.
func (r *roots) locks(e *env) error {
	for _, name := range append([]string{"."}, r.names...) {
		lock, err := constellations.ReadLock(filepath.Join(e.constellationsDir(), name, "meros.lock"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err // what it needs is not known
		}
		for _, sum := range lock.Digests() {
			d := digest.NewDigestFromEncoded(digest.SHA256, sum)
			r.add(d, keptByLock)
			if u := r.users[d]; name != "." && !slices.Contains(u, name) {
				r.users[d] = append(u, name)
			}
		}
	}
	return nil
}

// build adds what a build ended in, and how it is found.
func (r *roots) build(b *record.Build) {
	for _, s := range b.Stages {
		if s.Key != "" {
			r.entries[s.Key] = true
		}
		for _, a := range s.Outputs {
			if s.Target {
				r.add(a.Digest, keptByImage)
			}
			if s.Stage == "kernel-source" {
				r.add(a.Digest, keptByLock) // a commit is pinned, and may be gone from its repository
			}
			if u := r.users[a.Digest]; !slices.Contains(u, b.Name) {
				r.users[a.Digest] = append(u, b.Name)
			}
		}
	}
}
