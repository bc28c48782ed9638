// This file pins the packages of one section of a lock. It asks a resolver, and
// does not know how a distribution publishes its packages.

package pin

import (
	"context"
	"slices"
	"time"

	"meros/constellations"
	"meros/stages"
)

// resolver answers which packages make a system of one section. All its answers
// come from one state of the archives.
type resolver interface {
	// Date returns the time at which the archives reached this state.
	Date() time.Time
	// Indexes returns the signed indexes from which all answers come.
	Indexes() []constellations.Index
	// Base returns the packages of the smallest system.
	Base(context.Context) ([]constellations.Package, error)
	// Kernel returns the package with the distribution's kernel for virtual
	// machines. It may return nil if no machine boots this kernel.
	Kernel(context.Context) ([]constellations.Package, error)
	// Extra returns the named packages and all their dependencies that are not
	// part of the base system.
	Extra(ctx context.Context, names []string) ([]constellations.Package, error)
	// Package returns one package without its dependencies.
	Package(ctx context.Context, name string) (constellations.Package, error)
	// Close removes the resolver's files.
	Close()
}

// open returns a resolver for the section.
func (p *Pinner) open(ctx context.Context, m *constellations.Manifest, s constellations.Section) (resolver, error) {
	if s.Distribution == "alpine" {
		return p.openAlpine(ctx, m, s)
	}
	return p.openDebian(ctx, m, s)
}

// section pins the needs. All pins of a section come from one state of the
// archives: if they changed since, section pins everything again.
func (p *Pinner) section(ctx context.Context, m *constellations.Manifest, lock *constellations.Lock, s constellations.Section, needs []constellations.Need) error {
	r, err := p.open(ctx, m, s)
	if err != nil {
		return err
	}
	defer r.Close()
	section := lock.Section(s)
	if section != nil && !slices.Equal(section.Indexes, r.Indexes()) {
		p.Note("the archives changed since %s: pinning all packages of %s again, because new pins would not fit the old ones", section.Date.Format(time.DateOnly), s.Suite)
		section, needs = nil, forgetSection(m, lock, s)
	}
	if section == nil {
		if section, err = addSection(ctx, lock, s, r); err != nil {
			return err
		}
	}
	for _, n := range needs {
		if lock.Pins(n) {
			continue
		}
		if err := pinNeed(ctx, section, n, r); err != nil {
			return err
		}
	}
	return nil
}

// addSection adds a section to the lock, with its base system and its kernel.
func addSection(ctx context.Context, lock *constellations.Lock, s constellations.Section, r resolver) (*constellations.SectionLock, error) {
	base, err := r.Base(ctx)
	if err != nil {
		return nil, err
	}
	kernel, err := r.Kernel(ctx)
	if err != nil {
		return nil, err
	}
	lock.Sections = append(lock.Sections, constellations.SectionLock{
		Distribution: s.Distribution, Suite: s.Suite, Arch: s.Arch, Mirror: s.Mirror, Date: r.Date(), Indexes: r.Indexes(), Base: base, Kernel: kernel,
	})
	return &lock.Sections[len(lock.Sections)-1], nil
}

// pinNeed adds to the section the packages of one need.
func pinNeed(ctx context.Context, section *constellations.SectionLock, n constellations.Need, r resolver) error {
	if n.Package != "" {
		pkg, err := r.Package(ctx, n.Package)
		if err != nil {
			return err
		}
		section.Single = append(section.Single, pkg)
		return nil
	}
	packages, err := r.Extra(ctx, n.Packages)
	if err != nil {
		return err
	}
	section.Sets = append(section.Sets, constellations.PackageSet{Names: slices.Sorted(slices.Values(n.Packages)), Packages: packages})
	return nil
}

// forgetSection removes a section from the lock. It returns everything that all
// machines of the manifest need of that section.
func forgetSection(m *constellations.Manifest, lock *constellations.Lock, s constellations.Section) []constellations.Need {
	lock.Forget([]constellations.Need{{Section: s}})
	return slices.DeleteFunc(lock.Unpinned(stages.AllNeeds(m)), func(n constellations.Need) bool { return n.Source != nil || n.Section != s })
}
