// This file describes a lock and reads it. It does not know where the pins come
// from, and it fetches nothing.

package constellations

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Lock pins every download of a constellation. It names no default mirror, so the
// same lock works with every mirror.
//
// The file has lines of words separated by a space, in a fixed order. So a change
// of one package changes one line. Sections and lists begin with a line of their
// own:
//
//	meros-lock 1
//	debian SUITE ARCH [MIRROR]      or ubuntu, or alpine RELEASE ARCH [MIRROR]
//	date 2026-11-01T12:00:00Z
//	index ARCHIVE SUITE SHA256
//	base
//	package NAME VERSION ARCH ARCHIVE FILENAME SIZE SHA256
//	set NAME...
//	package ...
//	alone
//	package ...
//	kernel
//	package ...
//	source git URL REF COMMIT
//	source tarball URL SIZE SHA256
//	source image URL SIZE SHA256
//	source oci docker://REFERENCE ARCH MANIFEST-SHA256
//	layer SHA256 SIZE DIFF-ID
type Lock struct {
	Sections []SectionLock
	Sources  []Source
}

// SectionLock pins the packages for machines of one suite and architecture.
type SectionLock struct {
	Distribution string    // "debian", "ubuntu" or "alpine"
	Suite, Arch  string    // of Alpine, the suite is the release
	Mirror       string    // of the manifest, or ""; it only distinguishes sections
	Date         time.Time // of the newest index; builds use it as the present time
	Indexes      []Index
	Base         []Package
	Sets         []PackageSet
	Single       []Package // packages without their dependencies
	Kernel       []Package
}

// Index is a signed index of an archive, verified at the time of locking.
type Index struct{ Archive, Suite, SHA256 string }

// Digests returns the sha256 digests of all files that the lock pins, 64
// hexadecimal digits each.
func (l *Lock) Digests() []string {
	var all []string
	add := func(ps []Package) {
		for _, p := range ps {
			all = append(all, p.SHA256)
		}
	}
	for _, d := range l.Sections {
		add(d.Base)
		add(d.Single)
		add(d.Kernel)
		for _, s := range d.Sets {
			add(s.Packages)
		}
	}
	for _, s := range l.Sources {
		if s.SHA256 != "" && s.Kind != SourceRegistry {
			all = append(all, s.SHA256)
		}
		for _, l := range s.Layers {
			all = append(all, l.SHA256)
		}
	}
	return all
}

// PackageSet pins a list of packages and their dependencies, without the base
// system.
type PackageSet struct {
	Names    []string // of the list, sorted
	Packages []Package
}

// Package pins the file of one package.
type Package struct {
	Name, Version, Arch string
	Archive             string // archive of the suite: "debian", "security"
	Filename            string // relative to the archive's base URL
	Size                int64  // bytes
	SHA256              string // 64 hexadecimal digits
}

// Section returns the name of the section.
func (d *SectionLock) Section() Section { return Section{d.Distribution, d.Suite, d.Arch, d.Mirror} }

// Section returns the section of that name, or nil.
func (l *Lock) Section(s Section) *SectionLock {
	for i := range l.Sections {
		if d := &l.Sections[i]; d.Section() == s {
			return d
		}
	}
	return nil
}

// Set returns the pins of a sorted list of packages, or nil.
func (d *SectionLock) Set(names []string) *PackageSet {
	for i := range d.Sets {
		if slices.Equal(d.Sets[i].Names, names) {
			return &d.Sets[i]
		}
	}
	return nil
}

// ReadLock reads a lock. The error is os.ErrNotExist if there is no such file, and
// an *[Errors] if it has mistakes.
func ReadLock(file string) (*Lock, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return ParseLock(file, src)
}

var (
	hexDigest   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	commitID    = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	plainWord   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+.:~_-]*$`)
	poolName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+.:~_%/-]*\.(deb|apk|tar\.gz)$`)
	archiveName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
)

// lockReader reads a lock line by line.
type lockReader struct {
	*problems
	lock *Lock
	into *[]Package // the list that the next package line extends
	n    int        // number of the line
}

// ParseLock parses the text of a lock. file is its name in errors.
func ParseLock(file string, src []byte) (*Lock, error) {
	r := &lockReader{problems: newProblems(file, src), lock: new(Lock)}
	versioned := false
	for i, line := range r.lines {
		r.n = i + 1
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if !versioned {
			if versioned = len(f) == 2 && f[0] == "meros-lock" && f[1] == "1"; !versioned {
				r.bad("not a lock of this version of meros")
				break
			}
			continue
		}
		r.line(f)
	}
	if !versioned && len(r.list) == 0 {
		r.add(0, 0, r.hint(), "the lock is empty")
	}
	for _, d := range r.lock.Sections {
		if len(d.Base) == 0 || d.Date.IsZero() {
			r.add(0, 0, r.hint(), "the section %s %s %s is incomplete", d.Distribution, d.Suite, d.Arch)
		}
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return r.lock, nil
}

// hint returns the way to get a readable lock.
func (r *lockReader) hint() string {
	dir := filepath.Dir(r.file)
	if filepath.Base(dir) == "constellations" && filepath.Base(filepath.Dir(dir)) != "constellations" {
		return "remove the file; the next `meros kernel-build` pins its kernels again"
	}
	return "`meros update " + filepath.Base(dir) + "` writes a new lock"
}

func (r *lockReader) bad(format string, a ...any) { r.add(r.n, 1, r.hint(), format, a...) }

func (r *lockReader) line(f []string) {
	switch f[0] {
	case "debian", "ubuntu", "alpine":
		r.section(f[0], f[1:])
		return
	case "source":
		r.source(f[1:])
		return
	case "layer":
		r.layer(f[1:])
		return
	}
	if len(r.lock.Sections) == 0 {
		r.bad("%q stands before the first section", f[0])
		return
	}
	d := &r.lock.Sections[len(r.lock.Sections)-1]
	switch {
	case f[0] == "date" && len(f) == 2:
		t, err := time.Parse(time.RFC3339, f[1])
		if err != nil || t.Unix() <= 0 {
			r.bad("%q is not a date", f[1])
			t = time.Unix(1, 0)
		}
		d.Date = t.UTC()
	case f[0] == "index" && len(f) == 4:
		if !archiveName.MatchString(f[1]) || !plainWord.MatchString(f[2]) || !hexDigest.MatchString(f[3]) {
			r.bad("the line is not a valid index")
			return
		}
		d.Indexes = append(d.Indexes, Index{f[1], f[2], f[3]})
	case f[0] == "base" && len(f) == 1:
		r.into = &d.Base
	case f[0] == "alone" && len(f) == 1:
		r.into = &d.Single
	case f[0] == "kernel" && len(f) == 1:
		r.into = &d.Kernel
	case f[0] == "set" && len(f) > 1:
		r.set(d, f[1:])
	case f[0] == "package" && len(f) == 8:
		r.pkg(f[1:])
	default:
		r.bad("unknown line %q with %d words", f[0], len(f)-1)
	}
}

func (r *lockReader) section(distribution string, f []string) {
	r.into = nil
	pattern := suiteName
	if distribution == "alpine" {
		pattern = releaseName
	}
	if len(f) < 2 || len(f) > 3 || !pattern.MatchString(f[0]) || !slices.Contains(arches, f[1]) {
		r.bad("a section must be \"%s SUITE ARCH [MIRROR]\"", distribution)
		return
	}
	d := SectionLock{Distribution: distribution, Suite: f[0], Arch: f[1]}
	if len(f) == 3 {
		d.Mirror = f[2]
	}
	if r.lock.Section(d.Section()) != nil {
		r.bad("duplicate section %s %s %s", distribution, d.Suite, d.Arch)
	}
	r.lock.Sections = append(r.lock.Sections, d)
}

func (r *lockReader) source(f []string) {
	if len(f) != 4 {
		r.bad("a source must be \"source git URL REF COMMIT\", or \"source KIND URL SIZE SHA256\"")
		return
	}
	s := Source{Kind: KernelKind(f[0]), URL: f[1]}
	kind, _, problem := ParseKernelSource(s.URL)
	switch {
	case s.Kind == KernelGit && gitRef.MatchString(f[2]) && commitID.MatchString(f[3]) && !strings.HasPrefix(s.URL, "-"):
		s.Ref, s.Commit = f[2], f[3]
	case s.Kind == SourceRegistry && plainWord.MatchString(f[2]) && hexDigest.MatchString(f[3]):
		if ref, ok := RegistryReference(s.URL); !ok || !registryReference.MatchString(ref) {
			r.bad("%q is not an image in a registry", s.URL)
			return
		}
		s.Ref, s.SHA256 = f[2], f[3]
	case (s.Kind == KernelTarball && kind == KernelTarball && problem == "" || s.Kind == SourceImage && ImageURL(s.URL)) && hexDigest.MatchString(f[3]):
		size, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil || size <= 0 {
			r.bad("%q is not a size", f[2])
			return
		}
		s.Size, s.SHA256 = size, f[3]
	default:
		r.bad("the line is not a valid source")
		return
	}
	if r.lock.Source(s.Kind, s.URL, s.Ref) != nil {
		r.bad("duplicate source %s %s", s.URL, s.Ref)
	}
	r.lock.Sources = append(r.lock.Sources, s)
}

// layer reads a layer, which belongs to the source before it.
func (r *lockReader) layer(f []string) {
	var of *Source
	if n := len(r.lock.Sources); n > 0 {
		of = &r.lock.Sources[n-1]
	}
	if of == nil || of.Kind != SourceRegistry || len(f) != 3 || !hexDigest.MatchString(f[0]) || !hexDigest.MatchString(f[2]) {
		r.bad("a layer must be \"layer SHA256 SIZE DIFF-ID\", after an image in a registry")
		return
	}
	size, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil || size <= 0 {
		r.bad("%q is not a size", f[1])
		return
	}
	of.Layers = append(of.Layers, SourceLayer{f[0], size, f[2]})
}

func (r *lockReader) set(d *SectionLock, names []string) {
	for _, n := range names {
		if !packageName.MatchString(n) {
			r.bad("%q cannot be the name of a package", n)
		}
	}
	if !slices.IsSorted(names) || d.Set(names) != nil {
		r.bad("the set is not sorted, or is a duplicate")
	}
	d.Sets = append(d.Sets, PackageSet{Names: names})
	r.into = &d.Sets[len(d.Sets)-1].Packages
}

func (r *lockReader) pkg(f []string) {
	size, err := strconv.ParseInt(f[5], 10, 64)
	switch {
	case r.into == nil:
		r.bad("a package stands before the first list")
	case !packageName.MatchString(f[0]) || !plainWord.MatchString(f[1]) || !plainWord.MatchString(f[2]) || !archiveName.MatchString(f[3]):
		r.bad("package %q: the name, version, architecture or archive is not valid", f[0])
	case !poolName.MatchString(f[4]) || strings.Contains(f[4], ".."):
		r.bad("package %s: %q is not a path within an archive", f[0], f[4])
	case err != nil || size <= 0 || size > 8<<30:
		r.bad("package %s: %q is not a size", f[0], f[5])
	case !hexDigest.MatchString(f[6]):
		r.bad("package %s: %q is not a sha256 digest", f[0], f[6])
	default:
		*r.into = append(*r.into, Package{f[0], f[1], f[2], f[3], f[4], size, f[6]})
	}
}
