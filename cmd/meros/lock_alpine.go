package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"meros/constellations"
	"meros/runner/alpine"
	"meros/runner/arch"
	"meros/stages"
	"meros/stages/step"
)

// kernelPackage is Alpine's kernel for virtual machines.
const kernelPackage = "linux-virt"

// Bounds of what a mirror may send, bytes.
const (
	maxReleases = 1 << 20
	maxRootFS   = 256 << 20
	maxIndexes  = 64 << 20
	maxPackage  = 4 << 30
)

// alpineLock pins the packages of one release and architecture.
type alpineLock struct {
	e       *env
	m       *constellations.Manifest
	arch    string // Alpine's name
	foreign string // QEMU's name, if programs of it do not run here
	mirror  string
	servers servers
	release *alpine.RootFS
	dir     string // scratch
	tree    string // the mini root file system
	keys    alpine.Keys
	further map[string]string // files of the manifest's keys, by name
	indexes []constellations.Index
	known   map[string]pinnable // by "NAME VERSION"
}

// pinnable is a package and where it is.
type pinnable struct {
	alpine.Package
	repository string
}

// pinAlpine pins what is needed, all of it from one state of the mirror.
func pinAlpine(e *env, m *constellations.Manifest, lock *constellations.Lock, s constellations.Section, needs []constellations.Need) error {
	names, err := arch.Find(s.Arch)
	if err != nil {
		return err
	}
	scratch, err := e.scratch() // programs of the release run from it, which /tmp may forbid
	if err != nil {
		return err
	}
	defer scratch.Close()
	a := &alpineLock{e: e, m: m, arch: names.Alpine, mirror: alpine.Mirror(s.Mirror), dir: scratch.Dir(), known: make(map[string]pinnable)}
	if s.Arch != arch.Host() {
		a.foreign = s.Arch
	}
	if err := a.open(s); err != nil {
		return err
	}
	section := lock.Section(s)
	if section != nil && !slices.Equal(section.Indexes, a.indexes) {
		e.ui.note("the mirror has changed since %s: all of %s is pinned anew", section.Date.Format(time.DateOnly), s.Suite)
		section, needs = nil, forgetSection(m, lock, s)
	}
	if section == nil {
		r := a.release
		fresh := constellations.SectionLock{
			Distribution: s.Distribution, Suite: s.Suite, Arch: s.Arch, Mirror: s.Mirror, Date: r.Date, Indexes: a.indexes,
			Base: []constellations.Package{{Name: "alpine-minirootfs", Version: r.Version, Arch: names.Alpine, Archive: "releases", Filename: r.File, Size: r.Size, SHA256: r.SHA256}},
		}
		if a.wantsKernel(s) {
			if fresh.Kernel, err = a.newest(kernelPackage); err != nil {
				return err
			}
		}
		lock.Sections = append(lock.Sections, fresh)
		section = &lock.Sections[len(lock.Sections)-1]
	}
	for _, n := range needs {
		if lock.Pins(n) {
			continue
		}
		packages, err := a.solve(n.Packages)
		if err != nil {
			return err
		}
		section.Sets = append(section.Sets, constellations.PackageSet{Names: slices.Sorted(slices.Values(n.Packages)), Packages: packages})
	}
	return nil
}

// wantsKernel tells whether a machine of the section boots Alpine's kernel.
func (a *alpineLock) wantsKernel(s constellations.Section) bool {
	return slices.ContainsFunc(a.m.Machines, func(vm constellations.Machine) bool {
		return vm.Section() == s && vm.Kernel.Kind == constellations.KernelDistro
	})
}

func (a *alpineLock) url(file string) string { return a.mirror + "/" + file }

// get downloads a small file.
func (a *alpineLock) get(file string, limit int64) ([]byte, error) {
	var b bytes.Buffer
	_, err := download(a.e.ctx, &a.servers, a.url(file), &b, limit)
	return b.Bytes(), err
}

// open finds out what there is, and who says so.
func (a *alpineLock) open(s constellations.Section) error {
	text, err := a.get(alpine.ReleasesFile(s.Suite, a.arch), maxReleases)
	if err != nil {
		return fmt.Errorf("%w%s", err, a.nearest(s.Suite))
	}
	if a.release, err = alpine.ParseReleases(text, a.arch); err != nil {
		return err
	}
	stable := s.Suite == latestStable && strings.HasPrefix(a.release.Branch, "v")
	if !stable && a.release.Branch != s.Suite {
		return fmt.Errorf("%s is of %s, not of %s", a.url(alpine.ReleasesFile(s.Suite, a.arch)), a.release.Branch, s.Suite)
	}
	if err := a.readKeys(s); err != nil {
		return err
	}
	if err := a.rootFS(); err != nil {
		return err
	}
	if err := a.checkBranch(); err != nil {
		return err
	}
	if err := a.treeKeys(); err != nil {
		return err
	}
	for _, repository := range alpine.Repositories {
		if err := a.index(repository); err != nil {
			return err
		}
	}
	return nil
}

// latestStable is the release that a mirror says is the newest.
const latestStable = "latest-stable"

// checkBranch compares what the mirror said, unsigned, with the root file system
// that was signed: one of an older branch is not taken for one of a newer. Nothing
// tells the file systems of edge apart.
func (a *alpineLock) checkBranch() error {
	root, err := os.OpenRoot(a.tree)
	if err != nil {
		return err
	}
	defer root.Close()
	b, err := root.ReadFile("etc/alpine-release")
	if err != nil {
		return fmt.Errorf("the mini root file system does not say of which release it is: %w", err)
	}
	is := strings.TrimSpace(string(b))
	if numbers, ok := strings.CutPrefix(a.release.Branch, "v"); ok && !strings.HasPrefix(is, numbers+".") {
		return fmt.Errorf("%s is of Alpine %.20q, and latest-releases.yaml says of %s (another mirror may be right)", a.url(a.release.File), is, a.release.Branch)
	}
	return nil
}

var branchLink = regexp.MustCompile(`href="(edge|latest-stable|v[0-9]+\.[0-9]+)/?"`)

// nearest is a hint which releases the mirror has.
func (a *alpineLock) nearest(release string) string {
	var known []string
	if dir, ok := strings.CutPrefix(a.mirror, "file://"); ok {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			known = append(known, e.Name())
		}
	} else if list, err := a.get("", maxReleases); err == nil {
		for _, m := range branchLink.FindAllSubmatch(list, -1) {
			known = append(known, string(m[1]))
		}
	}
	if slices.Contains(known, release) || len(known) == 0 {
		return ""
	}
	if n := constellations.Nearest(release, known); n != "" {
		return fmt.Sprintf(" (the mirror has no release %s; did you mean %q?)", release, n)
	}
	return fmt.Sprintf(" (the mirror has no release %s; there are: %s)", release, strings.Join(known[max(0, len(known)-8):], ", "))
}

// readKeys finds the keys that the manifest adds.
func (a *alpineLock) readKeys(s constellations.Section) error {
	a.keys, a.further = make(alpine.Keys), make(map[string]string)
	for i := range a.m.Machines {
		vm := &a.m.Machines[i]
		if vm.Section() != s {
			continue
		}
		files, err := keyFiles(a.e.root, a.m, vm)
		if err != nil {
			return err
		}
		for _, file := range files {
			a.further[filepath.Base(file)] = file
			if !strings.HasSuffix(file, ".pub") {
				continue
			}
			b, err := os.ReadFile(file)
			if err == nil {
				err = a.keys.Add(file, b)
			}
			if err != nil {
				return fmt.Errorf("key of %s: %w", vm.Name, err)
			}
		}
	}
	return nil
}

// keyFiles are the paths of a machine's keys.
func keyFiles(root string, m *constellations.Manifest, vm *constellations.Machine) ([]string, error) {
	var files []string
	for _, k := range vm.Keys {
		file, err := stages.Find(root, m, "key", k)
		if err != nil {
			return nil, usageError{fmt.Errorf("%s/%s: %w", m.Name, vm.Name, err)}
		}
		files = append(files, file)
	}
	return files, nil
}

// rootFS downloads the mini root file system, checks who signed it, and unpacks
// it.
func (a *alpineLock) rootFS() error {
	r := a.release
	d, err := keepDownload(a.e, &a.servers, a.url(r.File), maxRootFS)
	if err != nil {
		return err
	}
	defer d.close()
	if d.size != r.Size {
		return fmt.Errorf("%s has %d bytes, and latest-releases.yaml says %d (the mirror may be in the middle of an update)", a.url(r.File), d.size, r.Size)
	}
	if d.sum != r.SHA256 {
		return fmt.Errorf("%s has the digest sha256:%s, and latest-releases.yaml says sha256:%s (the mirror may be in the middle of an update)", a.url(r.File), d.sum, r.SHA256)
	}
	signature, err := a.get(r.File+".asc", maxReleases)
	if err != nil {
		return fmt.Errorf("the signature of the release: %w", err)
	}
	keyring := filepath.Join(a.dir, "release.gpg")
	if err := os.WriteFile(keyring, alpine.ReleaseKey, 0o600); err != nil {
		return err
	}
	for _, f := range a.further {
		if strings.HasSuffix(f, ".gpg") {
			keyring = f
		}
	}
	if err := gpgv(a.e.ctx, d.file, "none", signature, keyring); err != nil {
		return fmt.Errorf("%s: %w", a.url(r.File), err)
	}
	private := filepath.Join(a.dir, "private") // it has programs that run as their owner
	if err := os.Mkdir(private, 0o700); err != nil {
		return err
	}
	a.tree = filepath.Join(private, "tree")
	if err := step.UnpackRootFS(a.e.ctx, d.file, a.tree, a.dir); err != nil {
		return fmt.Errorf("%s: %w", a.url(r.File), err)
	}
	return d.keep()
}

// treeKeys reads the keys that the release trusts.
func (a *alpineLock) treeKeys() error {
	root, err := os.OpenRoot(a.tree)
	if err != nil {
		return err
	}
	defer root.Close()
	const dir = "etc/apk/keys"
	d, err := root.Open(dir)
	if err != nil {
		return fmt.Errorf("the mini root file system has no %s: %w", dir, err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		b, err := root.ReadFile(path.Join(dir, n))
		if err == nil {
			err = a.keys.Add(n, b)
		}
		if err != nil {
			return fmt.Errorf("the mini root file system's key %s: %w", n, err)
		}
	}
	return nil
}

// index reads what a repository has.
func (a *alpineLock) index(repository string) error {
	file := alpine.IndexFile(a.release.Branch, repository, a.arch)
	b, err := a.get(file, maxIndexes)
	if err != nil {
		return err
	}
	packages, err := alpine.ReadIndex(b, a.keys)
	if err != nil {
		return fmt.Errorf("%s: %w", a.url(file), err)
	}
	for key, p := range packages {
		if _, ok := a.known[key]; !ok {
			a.known[key] = pinnable{p, repository}
		}
	}
	dir := filepath.Join(a.dir, "repo", repository, a.arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	a.indexes = append(a.indexes, constellations.Index{Archive: repository, Suite: a.release.Branch, SHA256: hex.EncodeToString(sum[:])})
	return os.WriteFile(filepath.Join(dir, path.Base(file)), b, 0o644)
}

// solve asks the release's own apk what the packages need.
func (a *alpineLock) solve(names []string) ([]constellations.Package, error) {
	selected, err := a.choose(names)
	if err != nil {
		return nil, err
	}
	var pinned []constellations.Package
	for i, key := range selected {
		p, ok := a.known[key]
		if !ok {
			return nil, fmt.Errorf("apk chose %s, which is in no index", key)
		}
		a.e.ui.transient(fmt.Sprintf("checking package %d of %d: %s", i+1, len(selected), key))
		pin, err := a.pin(p)
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", key, err)
		}
		pinned = append(pinned, pin)
	}
	return pinned, nil
}

// choose is what apk would install, as keys of a.known.
func (a *alpineLock) choose(names []string) ([]string, error) {
	repositories := make(map[string]string)
	for _, r := range alpine.Repositories {
		repositories[r] = filepath.Join(a.dir, "repo", r)
	}
	keys := make(map[string]string)
	for name, file := range a.further {
		if strings.HasSuffix(name, ".pub") {
			keys[name] = file
		}
	}
	selected, err := alpine.Solve(a.e.ctx, step.Apk(a.tree, a.foreign, nil), repositories, keys, names)
	if err != nil {
		return nil, a.explain(err)
	}
	return selected, nil
}

// pin downloads a package, checks that it is the one that the signed index
// speaks of, and pins all of it.
func (a *alpineLock) pin(p pinnable) (constellations.Package, error) {
	file := path.Join(a.release.Branch, p.repository, a.arch, p.File())
	d, err := keepDownload(a.e, &a.servers, a.url(file), maxPackage)
	if err != nil {
		return constellations.Package{}, err
	}
	defer d.close()
	b, err := os.ReadFile(d.file)
	if err == nil {
		err = p.CheckPackage(b)
	}
	if err != nil {
		return constellations.Package{}, fmt.Errorf("%s: %w (the mirror may be in the middle of an update)", a.url(file), err)
	}
	return constellations.Package{Name: p.Name, Version: p.Version, Arch: a.arch, Archive: p.repository, Filename: file, Size: p.Size, SHA256: d.sum}, d.keep()
}

// newest pins the package of that name alone.
func (a *alpineLock) newest(name string) ([]constellations.Package, error) {
	var versions []string
	for key, p := range a.known {
		if p.Name == name {
			versions = append(versions, key)
		}
	}
	if len(versions) > 1 { // apk knows which is newer
		chosen, err := a.choose([]string{name})
		if err != nil {
			return nil, err
		}
		versions = slices.DeleteFunc(versions, func(key string) bool { return !slices.Contains(chosen, key) })
	}
	if len(versions) > 0 {
		pin, err := a.pin(a.known[versions[0]])
		return []constellations.Package{pin}, err
	}
	return nil, fmt.Errorf("the mirror has no package %s, the kernel of Alpine's virtual machines (\"kernel:\" names another one)", name)
}

// explain adds which names are alike to those that no repository has.
func (a *alpineLock) explain(err error) error {
	unsolved := (*alpine.SolveError)(nil)
	if !errors.As(err, &unsolved) || len(unsolved.Missing) == 0 {
		return err
	}
	var known []string
	for _, p := range a.known {
		known = append(known, p.Name)
	}
	slices.Sort(known)
	var hints []string
	for _, name := range unsolved.Missing {
		hint := fmt.Sprintf("the mirror has no package %q", name)
		if n := constellations.Nearest(name, known); n != "" {
			hint += fmt.Sprintf(" (did you mean %q?)", n)
		}
		hints = append(hints, hint)
	}
	return fmt.Errorf("%s: %w", strings.Join(hints, ", "), err)
}
