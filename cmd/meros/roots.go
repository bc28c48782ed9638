// This file finds the roots of a collection: the artifacts that something still needs.

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

// roots says which artifacts are needed, why, and by which constellations.
type roots struct {
	reasons map[digest.Digest]string // the reason why an artifact must stay
	entries map[string]bool          // the actions that lead to current images
	users   map[digest.Digest][]string
	names   []string // of all constellations
}

// The reasons why an artifact stays, the strongest first.
const (
	neededByMachine = "running machines"
	neededByPin     = "pins"
	neededByImage   = "current images"
	neededByLock    = "locks"
)

// findRoots reads the run records of machines, the pins, the newest builds of all
// constellations, and the locks.
func findRoots(e *env, store *cache.Store) (*roots, error) {
	r := &roots{reasons: make(map[digest.Digest]string), entries: make(map[string]bool), users: make(map[digest.Digest][]string)}
	files, err := vm.Files(e.stateDir())
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		r.add(digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(f)), neededByMachine)
	}
	pins, err := store.Pins()
	if err != nil {
		return nil, err
	}
	for _, all := range pins {
		for _, d := range all {
			r.add(d, neededByPin)
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
	if _, ok := r.reasons[d]; !ok && d.Validate() == nil {
		r.reasons[d] = why
	}
}

// images adds the outputs of the newest builds of a constellation, for the machines that
// are still in the manifest.
func (r *roots) images(e *env, name string) error {
	var machines []string // nil if the manifest cannot be read: all
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

// locks adds the pinned downloads: their servers may no longer have them. The first lock
// is that of kernels that belong to no constellation.
func (r *roots) locks(e *env) error {
	for _, name := range append([]string{"."}, r.names...) {
		lock, err := constellations.ReadLock(filepath.Join(e.constellationsDir(), name, "meros.lock"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err // its needs are unknown
		}
		for _, sum := range lock.Digests() {
			d := digest.NewDigestFromEncoded(digest.SHA256, sum)
			r.add(d, neededByLock)
			if u := r.users[d]; name != "." && !slices.Contains(u, name) {
				r.users[d] = append(u, name)
			}
		}
	}
	return nil
}

// build adds the targets of a build, and the actions that lead to them.
func (r *roots) build(b *record.Build) {
	for _, s := range b.Stages {
		if s.Key != "" {
			r.entries[s.Key] = true
		}
		for _, a := range s.Outputs {
			if s.Target {
				r.add(a.Digest, neededByImage)
			}
			if s.Stage == "kernel-source" {
				r.add(a.Digest, neededByLock) // the commit is pinned, and its repository may have lost it
			}
			if u := r.users[a.Digest]; !slices.Contains(u, b.Name) {
				r.users[a.Digest] = append(u, b.Name)
			}
		}
	}
}
