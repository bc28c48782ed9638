package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Packages are what a machine needs to boot and to be logged in to.
const Packages = "[systemd-sysv, udev, dbus, openssh-server, iproute2]"

// ModulePackages are [Packages] and what compiles a module and loads it.
const ModulePackages = "[systemd-sysv, udev, dbus, openssh-server, iproute2, gcc, make, kmod, libelf1]"

// Kernel is the kernel of a manifest that is compiled in the project that
// [DownloadedKernel] gives: all that a virtual machine needs built in, one
// module, and the headers for others. ModulesConfig is the fragment it names.
const (
	Kernel        = `source: "debian:linux-source-6.1", headers: true, config: modules.config`
	ModulesConfig = "CONFIG_MODULES=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_DUMMY=m\n"
)

// seed is a project whose downloads others share.
type seed struct {
	name, manifest string
	args           []string // of the run that downloads all it needs
}

// machines is what the machines of tests use, so that one lock pins it.
var machines = seed{"meros-seed", `virtual_machines:
  plain: {suite: bookworm}
  full: {suite: bookworm, packages: ` + Packages + `}
`, []string{"build", "seed"}}

// kernels is for tests that build kernels: besides, a compiler and the real
// source. Its kernel is compiled, which takes minutes.
var kernels = seed{"meros-seed-kernel", `virtual_machines:
  full: {suite: bookworm, packages: ` + Packages + `, kernel: {` + Kernel + `}}
  module: {suite: bookworm, packages: ` + ModulePackages + `, kernel: {` + Kernel + `}}
`, []string{"build", "seed"}}

// GUIPackages are those of a machine whose programs have windows.
const GUIPackages = "[systemd-sysv, udev, dbus, openssh-server, waypipe, foot, fonts-dejavu-core]"

// guis is for tests of such machines.
var guis = seed{"meros-seed-gui", `virtual_machines:
  desk: {suite: bookworm, packages: ` + GUIPackages + `}
`, []string{"build", "seed", "--rootfs-only"}}

// DownloadedGUI is [Downloaded] for machines with [GUIPackages].
func DownloadedGUI(t testing.TB, constellations ...string) *Project {
	t.Helper()
	p := New(t, nil)
	p.link(t, guis.project(t), constellations)
	return p
}

// seedAge is how old the downloads may be that tests share.
const seedAge = 12 * time.Hour

// Downloaded is a project that has a lock for machines without packages and
// with [Packages] for each of the named constellations, and all that it pins
// in its cache. The archives are asked once a day.
func Downloaded(t testing.TB, constellations ...string) *Project {
	t.Helper()
	p := New(t, nil)
	p.Download(t, constellations...)
	return p
}

// Download does what [Downloaded] says in a project that is there.
func (p *Project) Download(t testing.TB, constellations ...string) {
	t.Helper()
	p.link(t, machines.project(t), constellations)
}

// Built is [Downloaded] with all in its cache that root has built of such
// machines up to their base images, for tests that begin where those end. Its
// files are those of others, too: none may be written to or given away.
func Built(t testing.TB, constellations ...string) *Project {
	t.Helper()
	NeedRoot(t)
	p := New(t, nil)
	p.Build(t, constellations...)
	return p
}

// Build does what [Built] says in a project that has no cache.
func (p *Project) Build(t testing.TB, constellations ...string) {
	t.Helper()
	built := machines.project(t)
	p.shares = true
	cache := p.Path("data/cache")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-al", built.Path("data/cache/actions"), built.Path("data/cache/cas"), cache).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	p.link(t, built, constellations)
}

// DownloadedKernel is [Downloaded] for constellations whose machines have
// [Packages] and kernels that are built. The second project is one in which
// the real source's [Kernel] has been compiled.
func DownloadedKernel(t testing.TB, constellations ...string) (p, compiled *Project) {
	t.Helper()
	p, compiled = New(t, nil), kernels.project(t)
	p.link(t, compiled, constellations)
	for _, c := range constellations {
		p.Write(t, "constellations/"+c+"/modules.config", ModulesConfig)
	}
	return p, compiled
}

// link shares another project's lock and downloads.
func (p *Project) link(t testing.TB, seed *Project, constellations []string) {
	t.Helper()
	lock, err := os.ReadFile(seed.Path("constellations/seed/meros.lock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range constellations {
		p.Write(t, "constellations/"+c+"/meros.lock", string(lock))
	}
	for _, sum := range LockedDigests(lock) {
		blob := filepath.Join("data/cache/cas", sum[:2], sum)
		if err := os.MkdirAll(filepath.Dir(p.Path(blob)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(seed.Path(blob), p.Path(blob)); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// project is the seed's own, made once a day. It stays. It is whole when the
// file "whole" is there: a run that was killed leaves a lock as well.
func (s seed) project(t testing.TB) *Project {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("%s-%d", s.name, os.Getuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock := lockFile(t, dir+".lock")
	defer unlock()
	p := &Project{Root: dir}
	fi, err := os.Stat(p.Path("whole"))
	if err == nil && time.Since(fi.ModTime()) < seedAge {
		return p
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	p.Write(t, "constellations/seed/manifest.yml", s.manifest)
	p.Write(t, "constellations/seed/modules.config", ModulesConfig)
	if o := p.Run(t, s.args...); o.Exit != 0 {
		os.RemoveAll(dir)
		Skip(t, "needs an archive of Debian and what builds an image: %s", o.Stderr)
	}
	p.Write(t, "whole", "")
	return p
}

func lockFile(t testing.TB, name string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}
