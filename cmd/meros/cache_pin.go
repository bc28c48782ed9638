// This file is the verbs cache pin and cache unpin.

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"meros/cache"
	"meros/constellations"
	"meros/runner/hint"
)

type pinCmd struct {
	What string `arg:"" optional:"" help:"CONSTELLATION or CONSTELLATION/MACHINE (default: list the pins)."`
}

// Run implements the verb.
func (c *pinCmd) Run(e *env) error {
	store, err := e.openStore(c.What == "")
	if err != nil {
		return err
	}
	if c.What == "" {
		return showPins(e, store)
	}
	if done, err := e.inNamespace("cache", "pin", c.What); done {
		return err
	}
	name, machine, one := strings.Cut(c.What, "/")
	m, err := constellations.Find(e.root, name)
	if err != nil {
		return usageIfMissing(err)
	}
	var machines []string
	if one {
		if _, err := m.Machine(machine); err != nil {
			return usageError{err}
		}
		machines = []string{machine}
	}
	builds, err := e.records().Newest(name, machines)
	if err != nil {
		return err
	}
	if len(builds) == 0 {
		return hint.Add(fmt.Errorf("%s was never built here: there is nothing to pin", c.What), "`meros build %s` builds it", strings.Replace(c.What, "/", " ", 1))
	}
	scratch, err := store.NewScratch(e.scratchDir())
	if err != nil {
		return err
	}
	defer scratch.Close()
	set := make(map[digest.Digest]bool)
	gone := 0
	for _, b := range builds {
		for _, s := range b.Stages {
			for _, a := range s.Outputs {
				switch {
				case set[a.Digest] || s.Stage == "disk":
				case store.Has(a) == nil:
					set[a.Digest] = true
				default:
					gone++
				}
			}
		}
	}
	if err := store.Pin(c.What, slices.Sorted(maps.Keys(set))); err != nil {
		return err
	}
	e.ui.say("pinned %s: its current artifacts stay until `meros cache unpin %s`", c.What, c.What)
	if gone > 0 {
		e.ui.note("%d of its artifacts are no longer in the cache; `meros build` makes them again if it needs them", gone)
	}
	return nil
}

// showPins lists the pins with their sizes.
func showPins(e *env, store *cache.Store) error {
	pins, err := store.Pins()
	if err != nil {
		return err
	}
	items, err := cache.Contents(store.Dir())
	if err != nil {
		return err
	}
	bytes := make(map[digest.Digest]int64)
	for _, h := range items {
		bytes[h.Digest] = h.Bytes
	}
	for _, name := range slices.Sorted(maps.Keys(pins)) {
		var sum int64
		for _, d := range pins[name] {
			sum += bytes[d]
		}
		e.ui.say("%9s  %s", bytesText(sum), name)
	}
	if len(pins) == 0 {
		e.ui.say("nothing is pinned")
	}
	return nil
}

type unpinCmd struct {
	What string `arg:"" help:"Name of a pin, as meros cache pin lists it."`
}

// Run implements the verb.
func (c *unpinCmd) Run(e *env) error {
	store, err := e.openStore(false)
	if err != nil {
		return err
	}
	return store.Unpin(c.What)
}
