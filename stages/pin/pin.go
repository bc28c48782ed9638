// Package pin adds to a lock everything that machines fetch from a network. That is
// packages of Debian and Alpine, sources of kernels, disk images, and container
// images. It verifies signatures, and records versions, sizes and digests.
//
// It does not read or write the file of the lock. It prints nothing: it reports
// through the callbacks of a [Pinner].
package pin

import (
	"context"
	"fmt"

	"meros/cache"
	"meros/constellations"
)

// Pinner pins for the manifests of one project. All exported fields must be
// set. A Pinner must not be used by several goroutines at the same time.
type Pinner struct {
	Root     string                           // the directory of the project
	Partial  string                           // the directory in which the fetch stage finds downloads by their SHA-256
	Note     func(format string, args ...any) // tells the user one fact
	Progress func(line string)                // shows the current work; the next line replaces it
	Scratch  func() (*cache.Scratch, error)   // creates a directory on the file system of Partial, from which programs may run

	servers Servers
}

// ManifestError is a mistake in the manifest that only shows when its pins are
// looked up.
type ManifestError struct{ Err error }

// Error returns the text of the mistake.
func (e *ManifestError) Error() string { return e.Err.Error() }

// Unwrap returns the mistake.
func (e *ManifestError) Unwrap() error { return e.Err }

// Pin adds to the lock what is missing in it: a source at a time, then all
// packages of a section at once. If the archives of a section changed since the
// lock pinned it, Pin pins all of that section again. After an error the lock
// may hold some of the missing pins.
func (p *Pinner) Pin(ctx context.Context, m *constellations.Manifest, lock *constellations.Lock, missing []constellations.Need) error {
	bySection := make(map[constellations.Section][]constellations.Need)
	var order []constellations.Section
	for _, n := range missing {
		if n.Source != nil {
			if err := p.source(ctx, m, lock, *n.Source); err != nil {
				return fmt.Errorf("lock %s: %v: %w", m.Name, n, err)
			}
			continue
		}
		if _, ok := bySection[n.Section]; !ok {
			order = append(order, n.Section)
		}
		bySection[n.Section] = append(bySection[n.Section], n)
	}
	for _, s := range order {
		p.Note("resolving the packages of %s %s", s.Suite, s.Arch)
		if err := p.section(ctx, m, lock, s, bySection[s]); err != nil {
			return fmt.Errorf("lock %s: %s %s: %w", m.Name, s.Suite, s.Arch, err)
		}
	}
	return nil
}

// source pins one source, unless another machine has pinned it already.
func (p *Pinner) source(ctx context.Context, m *constellations.Manifest, lock *constellations.Lock, s constellations.Source) error {
	if lock.Pins(constellations.Need{Source: &s}) {
		return nil
	}
	var err error
	switch s.Kind {
	case constellations.KernelGit:
		p.Note("asking %s for %s", s.URL, s.Ref)
		s.Commit, err = remoteCommit(ctx, s.URL, s.Ref)
	case constellations.SourceRegistry:
		p.Note("asking for %s", s.URL)
		err = pinContainerImage(ctx, &s)
	case constellations.KernelTarball, constellations.SourceImage:
		p.Note("downloading %s", s.URL)
		var key string
		if key, err = p.tarballKey(m, s.URL); err == nil {
			err = p.file(ctx, &s, key)
		}
	}
	if err == nil {
		lock.Sources = append(lock.Sources, s)
	}
	return err
}
