// This file asks apt which packages make a system.

package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"meros/runner/arch"
)

// Base returns the packages of a minimal system, in the order in which apt would
// unpack them. These are all that are Essential or of Priority required, apt, and
// their dependencies, without recommendations.
func (r *Resolver) Base(ctx context.Context) ([]Package, error) {
	if r.base != nil {
		return slices.Clone(r.base), nil
	}
	want := []string{"?essential", "?priority(required)", "apt"}
	names, err := r.names(ctx)
	if err != nil {
		return nil, err
	}
	// init-system-helpers depends on "usrmerge | usr-is-merged". The first
	// converts a system, the second states that it needs no conversion.
	if _, ok := names["usr-is-merged"]; ok {
		want = append(want, "usr-is-merged")
	}
	packages, err := r.install(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("the base system of %s: %w", r.opts.Suite, err)
	}
	if len(packages) == 0 {
		return nil, fmt.Errorf("the base system of %s: the archives have no essential packages for %s", r.opts.Suite, r.opts.Arch)
	}
	// From now on, apt takes these as installed.
	if err := r.writeStatus(ctx, packages); err != nil {
		return nil, err
	}
	r.base = packages
	return slices.Clone(packages), nil
}

// Extra returns the named packages and their dependencies without those of
// [Resolver.Base], in the order in which apt would unpack them. It leaves out
// recommendations. The error has all unknown names, and its hints have similar
// ones.
func (r *Resolver) Extra(ctx context.Context, names []string) ([]Package, error) {
	if _, err := r.Base(ctx); err != nil {
		return nil, err
	}
	known, err := r.names(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, n := range names {
		if _, ok := known[n]; !ok || !validPackageName(n) {
			errs = append(errs, unknownName(n, r.opts.Suite, known))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if len(names) == 0 {
		return nil, nil
	}
	packages, err := r.install(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("the packages %s of %s: %w", strings.Join(names, " "), r.opts.Suite, err)
	}
	return packages, nil
}

// kernelImage matches the name of a package that holds a kernel: it has the
// kernel's version.
var kernelImage = regexp.MustCompile(`^linux-image-[0-9]+\.`)

// Kernel returns the one package with the suite's kernel for virtual machines. The
// kernel boots without the package's dependencies.
func (r *Resolver) Kernel(ctx context.Context) ([]Package, error) {
	name := "linux-image-" + r.opts.Arch
	if a, ok := arch.FindDebian(r.opts.Arch); ok {
		name = a.DebianKernel
	}
	if r.opts.Ubuntu {
		name = "linux-image-virtual"
	}
	for range 4 { // linux-image-ARCH, linux-image-VERSION-ARCH, and in some suites one between them
		if kernelImage.MatchString(name) {
			return r.download(ctx, name)
		}
		out, err := r.apt(ctx, "apt-cache", "show", "--no-all-versions", name)
		if err != nil {
			return nil, fmt.Errorf("the kernel of %s: %w", r.opts.Suite, err)
		}
		next := ""
		err = stanzas(bytes.NewReader(out), func(s stanza) error {
			for _, d := range strings.Split(s.get("Depends"), ",") {
				if n := dependencyName(d); strings.HasPrefix(n, "linux-image-") && next == "" {
					next = n
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if next == "" {
			return nil, fmt.Errorf("the kernel of %s: package %s does not depend on a kernel image", r.opts.Suite, name)
		}
		name = next
	}
	return nil, fmt.Errorf("the kernel of %s: found no kernel image in the dependencies up to package %s", r.opts.Suite, name)
}

// Package returns one package without its dependencies.
func (r *Resolver) Package(ctx context.Context, name string) (Package, error) {
	known, err := r.names(ctx)
	if err != nil {
		return Package{}, err
	}
	if _, ok := known[name]; !ok || !validPackageName(name) {
		return Package{}, unknownName(name, r.opts.Suite, known)
	}
	found, err := r.download(ctx, name)
	if err != nil {
		return Package{}, err
	}
	return found[0], nil
}

// dependencyName returns the package of a dependency's first alternative.
func dependencyName(d string) string {
	d, _, _ = strings.Cut(d, "|")
	d, _, _ = strings.Cut(strings.TrimSpace(d), " ")
	d, _, _ = strings.Cut(d, "(")
	d, _, _ = strings.Cut(d, ":")
	return d
}

// download returns one package without its dependencies.
func (r *Resolver) download(ctx context.Context, name string) ([]Package, error) {
	out, err := r.apt(ctx, "apt-get", "download", "--print-uris", name)
	if err != nil {
		return nil, err
	}
	found, err := r.parseURIs(out)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("apt names %d packages for %s", len(found), name)
	}
	return slices.Collect(mapValues(found)), nil
}

func mapValues(m map[string]Package) func(func(Package) bool) {
	return func(yield func(Package) bool) {
		for _, p := range m {
			if !yield(p) {
				return
			}
		}
	}
}

// install returns the packages that apt would fetch to install the names or
// patterns on the system in the status file. They are in the order in which apt
// would unpack them.
func (r *Resolver) install(ctx context.Context, names []string) ([]Package, error) {
	args := append([]string{"apt-get", "install", "--yes", "--no-install-recommends", "--no-remove"}, names...)
	out, err := r.apt(ctx, append(slices.Clone(args), "--print-uris", "-qq")...)
	if err != nil {
		return nil, err
	}
	found, err := r.parseURIs(out)
	if err != nil {
		return nil, err
	}
	if out, err = r.apt(ctx, append(slices.Clone(args), "--simulate")...); err != nil {
		return nil, err
	}
	var packages []Package
	for line := range strings.Lines(string(out)) {
		key, ok := parseInst(line)
		if !ok {
			continue
		}
		p, ok := found[key]
		if !ok {
			return nil, fmt.Errorf("apt would install %s without fetching it", key)
		}
		delete(found, key)
		packages = append(packages, p)
	}
	for key := range found {
		return nil, fmt.Errorf("apt would fetch %s without installing it", key)
	}
	return packages, nil
}

// inst matches a line of apt-get --simulate: Inst NAME[:ARCH] [OLD] (VERSION ORIGIN... [ARCH]).
var inst = regexp.MustCompile(`^Inst ([^ :]+)(?::[^ ]+)? (?:\[[^]]*\] )?\(([^ ]+) [^\[]*\[([^]]+)\]`)

func parseInst(line string) (key string, ok bool) {
	m := inst.FindStringSubmatch(line)
	if m == nil {
		return "", false
	}
	return m[1] + " " + m[2] + " " + m[3], true
}

// uri matches a line of apt-get --print-uris: 'URL' FILE SIZE HASH:DIGEST.
var uri = regexp.MustCompile(`^'([^']+)' ([^ ]+)_([^ _]+)_([^ _]+)\.deb ([0-9]+) SHA256:([0-9a-f]{64})\s*$`)

// parseURIs returns the packages by "NAME VERSION ARCH".
func (r *Resolver) parseURIs(out []byte) (map[string]Package, error) {
	found := map[string]Package{}
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "'") {
			continue
		}
		p, err := r.parseURI(line)
		if err != nil {
			return nil, fmt.Errorf("apt printed the package %q: %w", strings.TrimSpace(line), err)
		}
		found[p.Name+" "+p.Version+" "+p.Arch] = p
	}
	return found, nil
}

func (r *Resolver) parseURI(line string) (p Package, err error) {
	m := uri.FindStringSubmatch(line)
	if m == nil {
		return p, errors.New("not in the form 'URL' FILE SIZE SHA256:DIGEST; meros needs an archive with SHA256")
	}
	p.Name, p.Arch, p.SHA256 = m[2], m[4], m[6]
	if p.Version, err = url.PathUnescape(m[3]); err != nil {
		return p, err
	}
	if p.Size, err = strconv.ParseInt(m[5], 10, 64); err != nil {
		return p, err
	}
	for _, a := range r.opts.Archives {
		if rest, ok := strings.CutPrefix(m[1], a.asAptSays()+"/"); ok {
			p.Archive = a.Name
			if p.Filename, err = url.PathUnescape(rest); err != nil {
				return p, err
			}
		}
	}
	if p.Archive == "" || !filepath.IsLocal(p.Filename) || !validPackageName(p.Name) || !validVersion(p.Version) || !validArch(p.Arch) {
		return p, errors.New("not in one of the archives, or with an invalid name")
	}
	return p, nil
}

// writeStatus makes packages the installed ones for all later calls of apt.
func (r *Resolver) writeStatus(ctx context.Context, packages []Package) error {
	args := []string{"apt-cache", "show"}
	want := map[string]bool{}
	for _, p := range packages {
		args = append(args, p.Name+"="+p.Version)
		want[p.Name+" "+p.Version+" "+p.Arch] = true
	}
	out, err := r.apt(ctx, args...)
	if err != nil {
		return err
	}
	var status bytes.Buffer
	err = stanzas(bytes.NewReader(out), func(s stanza) error {
		key := s.get("Package") + " " + s.get("Version") + " " + s.get("Architecture")
		if !want[key] {
			return nil
		}
		delete(want, key)
		for _, f := range s {
			switch f.name {
			case "Filename", "Size", "MD5sum", "SHA256", "Description-md5":
				continue
			}
			fmt.Fprintf(&status, "%s: %s\n", f.name, f.value)
		}
		status.WriteString("Status: install ok installed\n\n")
		return nil
	})
	if err != nil {
		return fmt.Errorf("apt-cache show: %w", err)
	}
	for key := range want {
		return fmt.Errorf("apt-cache show does not print %s", key)
	}
	return os.WriteFile(filepath.Join(r.opts.Dir, "status"), status.Bytes(), 0o644)
}

// names returns the names of all packages of the archives, including virtual ones.
func (r *Resolver) names(ctx context.Context) (map[string]struct{}, error) {
	out, err := r.apt(ctx, "apt-cache", "pkgnames")
	if err != nil {
		return nil, err
	}
	names := map[string]struct{}{}
	for line := range strings.Lines(string(out)) {
		names[strings.TrimSpace(line)] = struct{}{}
	}
	return names, nil
}
