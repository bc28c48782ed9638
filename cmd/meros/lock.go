package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"meros/cache"
	"meros/constellations"
	"meros/runner/alpine"
	"meros/runner/arch"
	"meros/runner/debian"
	"meros/stages"
)

type lockCmd struct {
	Constellation []string `arg:"" optional:"" help:"Names of directories below constellations/; default: all."`
}

// Run implements the verb.
func (c *lockCmd) Run(e *env) error {
	if done, err := e.inSandboxNamespace(c.Constellation, append([]string{"lock"}, c.Constellation...)); done {
		return err
	}
	return each(e, c.Constellation, func(name string) error {
		m, machines, err := (&buildCmd{Constellation: name}).load(e)
		if err != nil {
			return err
		}
		_, err = ensureLock(e, m, stages.Needs(machines), false)
		return err
	})
}

// inSandboxNamespace is [env.inNamespace] where a machine of the constellations
// is locked by a program of its own distribution, in a sandbox.
func (e *env) inSandboxNamespace(names, args []string) (done bool, err error) {
	if len(names) == 0 {
		if names, err = constellations.List(e.root); err != nil {
			return false, nil // it is said later
		}
	}
	for _, n := range names {
		m, err := constellations.Find(e.root, n)
		if err == nil && slices.ContainsFunc(m.Machines, func(vm constellations.Machine) bool { return vm.Distribution == "alpine" }) {
			return e.inNamespace(args...)
		}
	}
	return false, nil
}

// each does something to the named constellations, or to all.
func each(e *env, names []string, do func(name string) error) error {
	if len(names) == 0 {
		var err error
		if names, err = constellations.List(e.root); err != nil {
			return err
		}
	}
	for _, n := range names {
		if err := do(n); err != nil {
			return err
		}
	}
	return nil
}

type updateCmd struct {
	Constellation string   `arg:"" optional:"" help:"Name of a directory below constellations/; default: all of them."`
	Machine       []string `arg:"" optional:"" help:"Only what these machines use."`
	Kernel        bool     `help:"Only the sources of kernels."`
}

// Run implements the verb.
func (c *updateCmd) Run(e *env) error {
	var names []string
	if c.Constellation != "" {
		names = []string{c.Constellation}
	}
	args := append(append([]string{"update"}, names...), c.Machine...)
	if c.Kernel {
		args = append(args, "--kernel")
	}
	if done, err := e.inSandboxNamespace(names, args); done {
		return err
	}
	return each(e, names, func(name string) error { return c.update(e, name) })
}

func (c *updateCmd) update(e *env, name string) error {
	if name == kernelsAlone && !isConstellation(e, name) {
		return c.updateKernels(e)
	}
	m, machines, err := (&buildCmd{Constellation: name, Machine: c.Machine}).load(e)
	if err != nil {
		return err
	}
	unlock, err := holdLock(e, m)
	if err != nil {
		return err
	}
	defer unlock()
	lock, err := readLock(m)
	if damaged := (*constellations.Errors)(nil); errors.As(err, &damaged) && len(c.Machine) == 0 {
		lock, err = new(constellations.Lock), nil // all of it is made anew
	}
	if err != nil {
		return err
	}
	before := *lock
	before.Sources, before.Sections = slices.Clone(lock.Sources), slices.Clone(lock.Sections)
	lock.Forget(c.only(stages.Needs(machines)))
	// The other machines keep what they have, the forgotten sections are
	// resolved for all that use them.
	if err := pin(e, m, lock, lock.Unpinned(allNeeds(m))); err != nil {
		return err
	}
	lock.KeepDates(&before)
	if !c.Kernel && len(c.Machine) == 0 {
		lock.Prune(needsNow(e, m)) // the next build pins the image of --use anew
	}
	if string(lock.Encode()) == string(before.Encode()) {
		e.ui.note("%s is up to date", lockFile(m))
		return nil
	}
	return writeLock(e, m, lock)
}

// only leaves out what is not to be pinned anew.
func (c *updateCmd) only(needs []constellations.Need) []constellations.Need {
	if c.Kernel {
		return slices.DeleteFunc(needs, func(n constellations.Need) bool { return !n.OfKernel() })
	}
	return needs
}

// updateKernels pins anew what kernels are made of that belong to no
// constellation.
func (c *updateCmd) updateKernels(e *env) error {
	m := kernelManifest(e)
	unlock, err := holdLock(e, m)
	if err != nil {
		return err
	}
	defer unlock()
	lock, err := readLock(m)
	if err != nil {
		return err
	}
	needs := c.only(lock.Needs())
	lock.Forget(needs)
	if err := pin(e, m, lock, needs); err != nil {
		return err
	}
	return writeLock(e, m, lock)
}

// isConstellation tells whether there is a directory of that name.
func isConstellation(e *env, name string) bool {
	_, err := os.Stat(filepath.Join(e.root, "constellations", name))
	return err == nil
}

// allNeeds are those of all machines of a constellation.
func allNeeds(m *constellations.Manifest) []constellations.Need {
	var all []*constellations.Machine
	for i := range m.Machines {
		all = append(all, &m.Machines[i])
	}
	return stages.Needs(all)
}

// pin asks whoever knows for what is missing in the lock: apt, once for each
// section, and the servers of sources.
func pin(e *env, m *constellations.Manifest, lock *constellations.Lock, missing []constellations.Need) error {
	bySection := make(map[constellations.Section][]constellations.Need)
	var order []constellations.Section
	for _, n := range missing {
		if n.Source != nil {
			if err := pinSource(e, m, lock, *n.Source); err != nil {
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
		e.ui.note("resolving the packages of %s %s", s.Suite, s.Arch)
		pinAll := pinSection
		if s.Distribution == "alpine" {
			pinAll = pinAlpine
		}
		if err := pinAll(e, m, lock, s, bySection[s]); err != nil {
			return fmt.Errorf("lock %s: %s %s: %w", m.Name, s.Suite, s.Arch, err)
		}
	}
	return nil
}

// pinSection pins what is needed. All of a section comes from one state of
// the archives: if they have moved since, all of it is pinned anew.
func pinSection(e *env, m *constellations.Manifest, lock *constellations.Lock, s constellations.Section, needs []constellations.Need) error {
	names, err := arch.Find(s.Arch)
	if err != nil {
		return err
	}
	archives, err := debian.Archives(s.Distribution, "/", s.Suite, names.Debian, s.Mirror)
	if err != nil {
		return err
	}
	scratch, err := aptScratch()
	if err != nil {
		return err
	}
	defer scratch.Close()
	keyrings, err := keyringsFor(e, m, s, scratch.Dir())
	if err != nil {
		return err
	}
	r, err := debian.OpenResolver(e.ctx, debian.ResolverOptions{Dir: scratch.Dir(), Archives: archives, Suite: s.Suite, Arch: names.Debian, Ubuntu: s.Distribution == debian.Ubuntu, Keyrings: keyrings})
	if near := constellations.Nearest(s.Suite, debian.Suites(s.Distribution)); errors.Is(err, debian.ErrNoSuite) && near != "" && near != s.Suite {
		err = fmt.Errorf("%w; did you mean %q?", err, near)
	}
	if err != nil {
		return err
	}
	section := lock.Section(s)
	if section != nil && !slices.Equal(section.Indexes, pinnedIndexes(r)) {
		e.ui.note("the archives have changed since %s: what is not pinned yet no longer fits what is, so all of %s is pinned anew", section.Date.Format(time.DateOnly), s.Suite)
		section, needs = nil, forgetSection(m, lock, s)
	}
	if section == nil {
		base, err := r.Base(e.ctx)
		if err != nil {
			return err
		}
		kernel, err := r.Kernel(e.ctx)
		if err != nil {
			return err
		}
		lock.Sections = append(lock.Sections, constellations.SectionLock{
			Distribution: s.Distribution, Suite: s.Suite, Arch: s.Arch, Mirror: s.Mirror, Date: r.Date(), Indexes: pinnedIndexes(r), Base: pinned(base), Kernel: pinned(kernel),
		})
		section = &lock.Sections[len(lock.Sections)-1]
	}
	for _, n := range needs {
		if lock.Pins(n) {
			continue
		}
		if n.Package != "" {
			p, err := r.Alone(e.ctx, n.Package)
			if err != nil {
				return err
			}
			section.Single = append(section.Single, constellations.Package(p))
			continue
		}
		extra, err := r.Extra(e.ctx, n.Packages)
		if err != nil {
			return err
		}
		names := slices.Sorted(slices.Values(n.Packages))
		section.Sets = append(section.Sets, constellations.PackageSet{Names: names, Packages: pinned(extra)})
	}
	return nil
}

// forgetSection removes a section and returns what all machines need of it.
func forgetSection(m *constellations.Manifest, lock *constellations.Lock, s constellations.Section) []constellations.Need {
	lock.Forget([]constellations.Need{{Section: s}})
	return slices.DeleteFunc(lock.Unpinned(allNeeds(m)), func(n constellations.Need) bool { return n.Source != nil || n.Section != s })
}

// aptScratch is a directory where apt's own user can work, whatever the mode of
// the project's. It is in a place that all may write to, so it has to be ours.
func aptScratch() (*cache.Scratch, error) {
	parent := filepath.Join(os.TempDir(), "meros-apt-"+hostUser())
	if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	fi, err := os.Lstat(parent)
	if err != nil {
		return nil, err
	}
	if st := fi.Sys().(*syscall.Stat_t); !fi.IsDir() || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s is somebody else's, or others may write to it (remove it)", parent)
	}
	if _, err := cache.Reclaim(parent); err != nil {
		return nil, err
	}
	return cache.NewScratch(parent)
}

// hostUser is this user's id outside of a namespace of ours, where it is 0.
func hostUser() string {
	if b, err := os.ReadFile("/proc/self/uid_map"); err == nil && os.Geteuid() == 0 {
		if f := strings.Fields(string(b)); len(f) >= 3 && f[0] == "0" { // user_namespaces(7)
			return f[1]
		}
	}
	return strconv.Itoa(os.Geteuid())
}

func pinnedIndexes(r *debian.Resolver) []constellations.Index {
	var out []constellations.Index
	for _, i := range r.Indexes() {
		out = append(out, constellations.Index(i))
	}
	return out
}

func pinned(ps []debian.Package) []constellations.Package {
	out := make([]constellations.Package, len(ps))
	for i, p := range ps {
		out[i] = constellations.Package(p)
	}
	return out
}

// mirrors knows where a pinned package can be fetched from.
type mirrors struct {
	m        *constellations.Manifest
	archives map[string][]debian.Archive
	snapshot string
}

func newMirrors(m *constellations.Manifest) *mirrors {
	return &mirrors{m: m, archives: make(map[string][]debian.Archive), snapshot: os.Getenv(debian.SnapshotEnv)}
}

// urls are the places for one package, the best first.
func (ms *mirrors) urls(section *constellations.SectionLock, p constellations.Package) []string {
	if section.Distribution == "alpine" {
		return []string{alpine.Mirror(section.Mirror) + "/" + p.Filename}
	}
	key := section.Distribution + " " + section.Suite + " " + section.Arch + " " + section.Mirror
	archives, ok := ms.archives[key]
	if !ok {
		archives, _ = debian.Archives(section.Distribution, "/", section.Suite, section.Arch, section.Mirror) // without any, the fetch says so
		ms.archives[key] = archives
	}
	var urls []string
	for _, a := range archives {
		if a.Name == p.Archive {
			urls = append(urls, strings.TrimRight(a.URL, "/")+"/"+p.Filename)
		}
	}
	if ms.snapshot != "" && section.Distribution == "debian" {
		name := map[string]string{"security": "debian-security"}[p.Archive]
		if name == "" {
			name = "debian"
		}
		urls = append(urls, fmt.Sprintf("%s/%s/%s/%s", strings.TrimRight(ms.snapshot, "/"), name, section.Date.UTC().Format("20060102T150405Z"), p.Filename))
	}
	return urls
}
