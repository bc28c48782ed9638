// This file compares the downloads that machines need with the pins of a lock.

package constellations

import (
	"fmt"
	"slices"
	"strings"
)

// Section names the part of a lock that pins the packages of one suite.
type Section struct{ Distribution, Suite, Arch, Mirror string }

// Need is one download of a machine. It has exactly one kind: a base system,
// Packages on top of it, one Package without dependencies, or a Source. A base
// system has no other field set.
type Need struct {
	Section
	Machine  string
	Packages []string // sorted
	Package  string
	Source   *Source // as in the manifest, not pinned
}

// String returns the need as messages name it.
func (n Need) String() string {
	switch {
	case n.ofImage():
		return fmt.Sprintf("the base image of %s (%s)", n.Machine, n.Source.URL)
	case n.Source != nil:
		return fmt.Sprintf("the kernel source of %s (%s)", n.Machine, strings.TrimSpace(n.Source.URL+" "+n.Source.Ref))
	case n.Package != "":
		return fmt.Sprintf("the package %s, for %s", n.Package, n.Machine)
	case len(n.Packages) > 0:
		return fmt.Sprintf("the packages of %s (%s)", n.Machine, strings.Join(n.Packages, " "))
	}
	return fmt.Sprintf("the base system of %s %s, for %s", n.Suite, n.Arch, n.Machine)
}

// of reports whether the need is this source.
func (n Need) of(s Source) bool {
	return n.Source != nil && n.Source.Kind == s.Kind && n.Source.URL == s.URL && n.Source.Ref == s.Ref
}

func (n Need) ofImage() bool {
	return n.Source != nil && (n.Source.Kind == SourceImage || n.Source.Kind == SourceRegistry)
}

// OfKernel reports whether the need is the source of a kernel.
func (n Need) OfKernel() bool { return n.Source != nil && !n.ofImage() }

// Among reports whether the need is a source, and one of the needs.
func (n Need) Among(needs []Need) bool {
	return n.Source != nil && slices.ContainsFunc(needs, func(o Need) bool { return o.of(*n.Source) })
}

// SourceImage is the kind of a [Source] that is a disk image.
const SourceImage KernelKind = "image"

// SourceRegistry is the kind of a [Source] that is a container image in a
// registry. Its URL is the base, its Ref is Go's name of the architecture.
const SourceRegistry KernelKind = "oci"

// Source is a pin that is not a package: the source of a kernel, a disk image, or
// a container image. A kernel's source is a commit of a git repository or an
// archive.
type Source struct {
	Kind     KernelKind // KernelGit, KernelTarball, SourceImage or SourceRegistry
	URL, Ref string
	Commit   string        // 40 or 64 hexadecimal digits
	Size     int64         // of a file, bytes
	SHA256   string        // of a file, or of the manifest of a container image
	Layers   []SourceLayer // of a container image, the lowest first
}

// SourceLayer pins a layer in a registry.
type SourceLayer struct {
	SHA256 string
	Size   int64  // bytes
	DiffID string // SHA-256 of the uncompressed layer
}

// Source returns the pin of a source, or nil.
func (l *Lock) Source(kind KernelKind, url, ref string) *Source {
	for i := range l.Sources {
		if s := &l.Sources[i]; s.Kind == kind && s.URL == url && s.Ref == ref {
			return s
		}
	}
	return nil
}

// Pins reports whether the lock pins the need.
func (l *Lock) Pins(n Need) bool {
	if n.Source != nil {
		return l.Source(n.Source.Kind, n.Source.URL, n.Source.Ref) != nil
	}
	d := l.Section(n.Section)
	switch {
	case d == nil:
		return false
	case n.Package != "":
		return d.Package(n.Package) != nil
	case len(n.Packages) > 0:
		return d.Set(n.Packages) != nil
	}
	return true
}

// Needs returns the needs that the lock pins.
func (l *Lock) Needs() []Need {
	var needs []Need
	for _, d := range l.Sections {
		base := Need{Section: d.Section()}
		needs = append(needs, base)
		for _, s := range d.Sets {
			with := base
			with.Packages = s.Names
			needs = append(needs, with)
		}
		for _, p := range d.Single {
			with := base
			with.Package = p.Name
			needs = append(needs, with)
		}
	}
	for _, s := range l.Sources {
		needs = append(needs, Need{Source: &Source{Kind: s.Kind, URL: s.URL, Ref: s.Ref}})
	}
	return needs
}

// Images returns the needs of images that the lock pins.
func (l *Lock) Images() []Need {
	return slices.DeleteFunc(l.Needs(), func(n Need) bool { return !n.ofImage() })
}

// Unpinned returns the needs that the lock does not pin.
func (l *Lock) Unpinned(needs []Need) []Need {
	return slices.DeleteFunc(slices.Clone(needs), l.Pins)
}

// Prune removes all pins that are not among the needs.
func (l *Lock) Prune(needs []Need) {
	l.Sources = slices.DeleteFunc(l.Sources, func(s Source) bool {
		return !slices.ContainsFunc(needs, func(n Need) bool { return n.of(s) })
	})
	l.Sections = slices.DeleteFunc(l.Sections, func(d SectionLock) bool {
		return !slices.ContainsFunc(needs, d.serves)
	})
	for i := range l.Sections {
		d := &l.Sections[i]
		d.Sets = slices.DeleteFunc(d.Sets, func(s PackageSet) bool {
			return !slices.ContainsFunc(needs, func(n Need) bool { return d.serves(n) && slices.Equal(n.Packages, s.Names) })
		})
		d.Single = slices.DeleteFunc(d.Single, func(p Package) bool {
			return !slices.ContainsFunc(needs, func(n Need) bool { return d.serves(n) && n.Package == p.Name })
		})
	}
}

// KeepDates gives a section its former date if it pins the same packages as
// before. The date is in the keys of stages, so nothing is rebuilt then.
func (l *Lock) KeepDates(before *Lock) {
	for i := range l.Sections {
		d := &l.Sections[i]
		was := before.Section(d.Section())
		if was == nil {
			continue
		}
		same := *was
		same.Date, same.Indexes = d.Date, d.Indexes
		one, other := &Lock{Sections: []SectionLock{same}}, &Lock{Sections: []SectionLock{*d}}
		if string(one.Encode()) == string(other.Encode()) {
			d.Date = was.Date
		}
	}
}

// serves reports whether this section pins needs like n.
func (d *SectionLock) serves(n Need) bool {
	return n.Source == nil && n.Section == d.Section()
}

// Forget removes the pins of the needs. It removes whole sections.
func (l *Lock) Forget(needs []Need) {
	for _, n := range needs {
		l.Sections = slices.DeleteFunc(l.Sections, func(d SectionLock) bool { return d.serves(n) })
		l.Sources = slices.DeleteFunc(l.Sources, n.of)
	}
}

// Package returns the pin of a package without dependencies, or nil.
func (d *SectionLock) Package(name string) *Package {
	for i := range d.Single {
		if d.Single[i].Name == name {
			return &d.Single[i]
		}
	}
	return nil
}
