// This file resolves the packages of Alpine. It verifies the mini root file
// system of a release, and runs the apk from it in a sandbox.

package pin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"meros/cache"
	"meros/constellations"
	"meros/runner/alpine"
	"meros/runner/arch"
	"meros/runner/hint"
	"meros/stages/step"
)

// Limits of what a mirror may send, bytes.
const (
	maxReleases = 1 << 20
	maxRootFS   = 256 << 20
	maxIndexes  = 64 << 20
	maxPackage  = 4 << 30
)

// alpineResolver is the [resolver] of Alpine, for one release and architecture.
type alpineResolver struct {
	p       *Pinner
	m       *constellations.Manifest
	section constellations.Section
	arch    string // Alpine's name
	foreign string // QEMU's name, if this host cannot run programs of arch itself
	mirror  string
	release *alpine.RootFS
	scratch *cache.Scratch
	tree    string // the unpacked mini root file system
	keys    alpine.Keys
	files   map[string]string // paths of the manifest's keys, by base name
	indexes []constellations.Index
	known   map[string]alpinePackage // by "NAME VERSION"
}

// alpinePackage is a package and the repository that has it.
type alpinePackage struct {
	alpine.Package
	repository string
}

// openAlpine reads and verifies the release and the indexes of a section.
func (p *Pinner) openAlpine(ctx context.Context, m *constellations.Manifest, s constellations.Section) (*alpineResolver, error) {
	a, err := arch.Find(s.Arch)
	if err != nil {
		return nil, err
	}
	scratch, err := p.Scratch() // the release's programs run from it, and /tmp may be mounted noexec
	if err != nil {
		return nil, err
	}
	r := &alpineResolver{p: p, m: m, section: s, arch: a.Alpine, mirror: alpine.Mirror(s.Mirror), scratch: scratch, known: make(map[string]alpinePackage)}
	if s.Arch != arch.Host() {
		r.foreign = s.Arch
	}
	if err := r.open(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close implements [resolver].
func (r *alpineResolver) Close() { r.scratch.Close() }

// Date implements [resolver].
func (r *alpineResolver) Date() time.Time { return r.release.Date }

// Indexes implements [resolver].
func (r *alpineResolver) Indexes() []constellations.Index { return r.indexes }

// Base implements [resolver].
func (r *alpineResolver) Base(context.Context) ([]constellations.Package, error) {
	f := r.release
	return []constellations.Package{{Name: "alpine-minirootfs", Version: f.Version, Arch: r.arch, Archive: "releases", Filename: f.File, Size: f.Size, SHA256: f.SHA256}}, nil
}

// Kernel implements [resolver].
func (r *alpineResolver) Kernel(ctx context.Context) ([]constellations.Package, error) {
	if !r.wantsKernel() {
		return nil, nil
	}
	pkg, err := r.Package(ctx, alpine.KernelPackage)
	if errors.Is(err, errNoPackage) {
		return nil, hint.Add(err, "this is the kernel of Alpine's virtual machines; `kernel:` in the manifest names another one")
	}
	if err != nil {
		return nil, err
	}
	return []constellations.Package{pkg}, nil
}

// wantsKernel reports whether a machine of the section boots Alpine's kernel.
func (r *alpineResolver) wantsKernel() bool {
	return slices.ContainsFunc(r.m.Machines, func(vm constellations.Machine) bool {
		return vm.Section() == r.section && vm.Kernel.Kind == constellations.KernelDistro
	})
}

// Extra implements [resolver]. It asks the release's own apk.
func (r *alpineResolver) Extra(ctx context.Context, names []string) ([]constellations.Package, error) {
	selected, err := r.choose(ctx, names)
	if err != nil {
		return nil, err
	}
	var packages []constellations.Package
	for i, key := range selected {
		p, ok := r.known[key]
		if !ok {
			return nil, fmt.Errorf("apk chose %s, but no index has it", key)
		}
		r.p.Progress(fmt.Sprintf("checking package %d of %d: %s", i+1, len(selected), key))
		pkg, err := r.pin(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", key, err)
		}
		packages = append(packages, pkg)
	}
	return packages, nil
}

// errNoPackage means that no repository of the mirror has a package.
var errNoPackage = errors.New("the mirror has no package")

// Package implements [resolver]. It pins the newest version.
func (r *alpineResolver) Package(ctx context.Context, name string) (constellations.Package, error) {
	var versions []string
	for key, p := range r.known {
		if p.Name == name {
			versions = append(versions, key)
		}
	}
	if len(versions) > 1 { // apk knows which one is newer
		chosen, err := r.choose(ctx, []string{name})
		if err != nil {
			return constellations.Package{}, err
		}
		versions = slices.DeleteFunc(versions, func(key string) bool { return !slices.Contains(chosen, key) })
	}
	if len(versions) == 0 {
		return constellations.Package{}, fmt.Errorf("%w %s", errNoPackage, name)
	}
	return r.pin(ctx, r.known[versions[0]])
}

func (r *alpineResolver) url(file string) string { return r.mirror + "/" + file }

// get downloads a small file.
func (r *alpineResolver) get(ctx context.Context, file string, limit int64) ([]byte, error) {
	var b bytes.Buffer
	_, err := r.p.copy(ctx, &b, r.url(file), limit)
	return b.Bytes(), err
}

// open reads the release and the indexes, and verifies who signed them.
func (r *alpineResolver) open(ctx context.Context) error {
	file := alpine.ReleasesFile(r.section.Suite, r.arch)
	text, err := r.get(ctx, file, maxReleases)
	if err != nil {
		return r.suggestRelease(ctx, err)
	}
	if r.release, err = alpine.ParseReleases(text, r.arch); err != nil {
		return err
	}
	if !r.release.Serves(r.section.Suite) {
		return fmt.Errorf("%s is for %s, not for %s", r.url(file), r.release.Branch, r.section.Suite)
	}
	if err := r.readKeys(); err != nil {
		return err
	}
	if err := r.rootFS(ctx); err != nil {
		return err
	}
	if err := r.checkBranch(); err != nil {
		return err
	}
	if err := r.keys.AddTree(r.tree); err != nil {
		return fmt.Errorf("the mini root file system: %w", err)
	}
	for _, repository := range alpine.Repositories {
		if err := r.index(ctx, repository); err != nil {
			return err
		}
	}
	return nil
}

// checkBranch compares the branch in the unsigned latest-releases.yaml with the
// signed root file system. So a mirror cannot offer an older branch as a newer
// one. The file systems of edge cannot be told apart in this way.
func (r *alpineResolver) checkBranch() error {
	version, err := alpine.VersionOf(r.tree)
	if err != nil {
		return fmt.Errorf("the mini root file system has no release number: %w", err)
	}
	if !r.release.Matches(version) {
		return hint.Add(fmt.Errorf("%s is Alpine %.20q, but latest-releases.yaml says %s", r.url(r.release.File), version, r.release.Branch), "try another mirror")
	}
	return nil
}

// suggestRelease adds to err which releases the mirror has.
func (r *alpineResolver) suggestRelease(ctx context.Context, err error) error {
	release := r.section.Suite
	var known []string
	if dir, ok := strings.CutPrefix(r.mirror, "file://"); ok {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			known = append(known, e.Name())
		}
	} else if list, err := r.get(ctx, "", maxReleases); err == nil {
		known = alpine.Branches(list)
	}
	if slices.Contains(known, release) || len(known) == 0 {
		return err
	}
	err = fmt.Errorf("the mirror has no release %s: %w", release, err)
	if n := constellations.Nearest(release, known); n != "" {
		return hint.Add(err, "did you mean %q?", n)
	}
	return hint.Add(err, "the mirror has: %s", strings.Join(known[max(0, len(known)-8):], ", "))
}

// readKeys reads the keys that the manifest adds.
func (r *alpineResolver) readKeys() error {
	r.keys, r.files = make(alpine.Keys), make(map[string]string)
	for i := range r.m.Machines {
		vm := &r.m.Machines[i]
		if vm.Section() != r.section {
			continue
		}
		files, err := r.p.keyFiles(r.m, vm)
		if err != nil {
			return err
		}
		for _, file := range files {
			r.files[filepath.Base(file)] = file
			if !strings.HasSuffix(file, ".pub") {
				continue
			}
			b, err := os.ReadFile(file)
			if err == nil {
				err = r.keys.Add(file, b)
			}
			if err != nil {
				return fmt.Errorf("key of %s: %w", vm.Name, err)
			}
		}
	}
	return nil
}

// rootFS downloads the mini root file system, verifies its signature, and
// unpacks it.
func (r *alpineResolver) rootFS(ctx context.Context) error {
	f := r.release
	d, err := r.p.download(ctx, r.url(f.File), maxRootFS)
	if err != nil {
		return err
	}
	defer d.close()
	if d.size != f.Size {
		return hint.Add(fmt.Errorf("%s has %d bytes, and latest-releases.yaml says %d", r.url(f.File), d.size, f.Size), mirrorUpdates)
	}
	if d.sum != f.SHA256 {
		return hint.Add(fmt.Errorf("%s has the digest sha256:%.12s, but latest-releases.yaml says sha256:%.12s", r.url(f.File), d.sum, f.SHA256), mirrorUpdates)
	}
	signature, err := r.get(ctx, f.File+".asc", maxReleases)
	if err != nil {
		return fmt.Errorf("the signature of the release: %w", err)
	}
	keyring := filepath.Join(r.scratch.Dir(), "release.gpg")
	if err := os.WriteFile(keyring, alpine.ReleaseKey, 0o600); err != nil {
		return err
	}
	for _, file := range r.files {
		if strings.HasSuffix(file, ".gpg") {
			keyring = file
		}
	}
	if err := gpgv(ctx, d.file, "none", signature, keyring); err != nil {
		return fmt.Errorf("%s: %w", r.url(f.File), err)
	}
	private := filepath.Join(r.scratch.Dir(), "private") // the tree has setuid programs
	if err := os.Mkdir(private, 0o700); err != nil {
		return err
	}
	r.tree = filepath.Join(private, "tree")
	if err := step.UnpackRootFS(ctx, d.file, r.tree, r.scratch.Dir()); err != nil {
		return fmt.Errorf("%s: %w", r.url(f.File), err)
	}
	return d.publish()
}

// mirrorUpdates is the hint for files of a mirror that contradict each other.
const mirrorUpdates = "the mirror may be in the middle of an update: try again later"

// index reads and verifies the index of a repository.
func (r *alpineResolver) index(ctx context.Context, repository string) error {
	file := alpine.IndexFile(r.release.Branch, repository, r.arch)
	b, err := r.get(ctx, file, maxIndexes)
	if err != nil {
		return err
	}
	packages, err := alpine.ReadIndex(b, r.keys)
	if err != nil {
		return fmt.Errorf("%s: %w", r.url(file), err)
	}
	for key, p := range packages {
		if _, ok := r.known[key]; !ok {
			r.known[key] = alpinePackage{p, repository}
		}
	}
	dir := filepath.Join(r.repositoryDir(repository), r.arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	r.indexes = append(r.indexes, constellations.Index{Archive: repository, Suite: r.release.Branch, SHA256: hex.EncodeToString(sum[:])})
	return os.WriteFile(filepath.Join(dir, path.Base(file)), b, 0o644)
}

// repositoryDir returns the directory in which apk finds the index of a
// repository.
func (r *alpineResolver) repositoryDir(repository string) string {
	return filepath.Join(r.scratch.Dir(), "repo", repository)
}

// choose returns the packages that apk would install, as keys of r.known.
func (r *alpineResolver) choose(ctx context.Context, names []string) ([]string, error) {
	repositories := make(map[string]string)
	for _, repository := range alpine.Repositories {
		repositories[repository] = r.repositoryDir(repository)
	}
	keys := make(map[string]string)
	for name, file := range r.files {
		if strings.HasSuffix(name, ".pub") {
			keys[name] = file
		}
	}
	selected, err := alpine.Solve(ctx, step.Apk(r.tree, r.foreign, nil), repositories, keys, names)
	if err != nil {
		return nil, r.suggestPackages(err)
	}
	return selected, nil
}

// pin downloads a package, checks it against the signed index, and returns its
// pin.
func (r *alpineResolver) pin(ctx context.Context, p alpinePackage) (constellations.Package, error) {
	file := path.Join(r.release.Branch, p.repository, r.arch, p.File())
	d, err := r.p.download(ctx, r.url(file), maxPackage)
	if err != nil {
		return constellations.Package{}, err
	}
	defer d.close()
	b, err := os.ReadFile(d.file)
	if err == nil {
		err = p.CheckPackage(b)
	}
	if err != nil {
		return constellations.Package{}, hint.Add(fmt.Errorf("%s: %w", r.url(file), err), mirrorUpdates)
	}
	return constellations.Package{Name: p.Name, Version: p.Version, Arch: r.arch, Archive: p.repository, Filename: file, Size: p.Size, SHA256: d.sum}, d.publish()
}

// suggestPackages adds to an error of apk which names are similar to those that
// no repository has.
func (r *alpineResolver) suggestPackages(err error) error {
	unsolved := (*alpine.SolveError)(nil)
	if !errors.As(err, &unsolved) || len(unsolved.Missing) == 0 {
		return err
	}
	var known []string
	for _, p := range r.known {
		known = append(known, p.Name)
	}
	slices.Sort(known)
	var missing, near []string
	for _, name := range unsolved.Missing {
		missing = append(missing, fmt.Sprintf("%v %q", errNoPackage, name))
		if n := constellations.Nearest(name, known); n != "" {
			near = append(near, fmt.Sprintf("%q", n))
		}
	}
	err = fmt.Errorf("%s: %w", strings.Join(missing, ", "), err)
	if len(near) > 0 {
		err = hint.Add(err, "did you mean %s?", strings.Join(near, ", "))
	}
	return err
}
