// This file shares downloads, base images and compiled kernels between the
// projects of tests, and refreshes them after half a day.

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

// Packages lists the packages that a machine needs to boot and to accept logins.
const Packages = "[systemd-sysv, udev, dbus, openssh-server, iproute2]"

// ModulePackages lists [Packages] and the packages that compile and load a
// kernel module.
const ModulePackages = "[systemd-sysv, udev, dbus, openssh-server, iproute2, gcc, make, kmod, libelf1]"

// Kernel describes, in a manifest's words, the kernel that the projects of
// [DownloadedKernel] use. It has one module and the headers for others. Its
// fragment modules.config has the text that [KernelFragment] returns.
const Kernel = `source: "debian:linux-source-6.1", headers: true, config: modules.config`

// KernelFragment returns the configuration of [Kernel]. The nightly tier builds
// everything that a machine gets by default. The other tiers leave out subsystems
// that no test uses, because compiling them takes minutes.
func KernelFragment() string {
	fragment := "CONFIG_MODULES=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_DUMMY=m\n"
	if os.Getenv(TierEnv) == "nightly" {
		return fragment
	}
	for _, option := range []string{
		"IPV6", "NETFILTER", "BRIDGE", "VETH", "TUN", "NET_9P", "IP_MULTICAST", "FUSE_FS", "OVERLAY_FS", "BPF_SYSCALL", "IO_URING", "HYPERVISOR_GUEST",
	} {
		fragment += "# CONFIG_" + option + " is not set\n"
	}
	return fragment
}

// seed describes a project whose downloads other projects share.
type seed struct {
	name, manifest string
	args           []string // arguments of the run that downloads everything
}

// machines has all packages that the machines of tests use, pinned in one lock.
var machines = seed{"meros-seed", `virtual_machines:
  plain: {suite: bookworm}
  full: {suite: bookworm, packages: ` + Packages + `}
`, []string{"build", "seed"}}

// kernels is the seed of tests that build kernels. It also has a compiler and
// the real source. Compiling its kernel takes minutes.
var kernels = seed{"meros-seed-kernel", `virtual_machines:
  full: {suite: bookworm, packages: ` + Packages + `, kernel: {` + Kernel + `}}
  module: {suite: bookworm, packages: ` + ModulePackages + `, kernel: {` + Kernel + `}}
`, []string{"build", "seed"}}

// GUIPackages lists the packages of a machine whose programs show windows.
const GUIPackages = "[systemd-sysv, udev, dbus, openssh-server, waypipe, foot, fonts-dejavu-core]"

// guis is the seed of tests with such machines.
var guis = seed{"meros-seed-gui", `virtual_machines:
  desk: {suite: bookworm, packages: ` + GUIPackages + `}
`, []string{"build", "seed", "--rootfs-only"}}

// DownloadedGUI does what [Downloaded] does for machines with [GUIPackages].
func DownloadedGUI(t testing.TB, constellations ...string) *Project {
	t.Helper()
	p := New(t, nil)
	p.link(t, guis.project(t), constellations)
	return p
}

// seedAge is the greatest age of shared downloads.
const seedAge = 12 * time.Hour

// Downloaded returns a project with a lock for each of the named constellations.
// The lock pins machines without packages and with [Packages], and the cache has
// every file that the lock pins. The downloads are at most [seedAge] old.
func Downloaded(t testing.TB, constellations ...string) *Project {
	t.Helper()
	p := New(t, nil)
	p.Download(t, constellations...)
	return p
}

// Download does in an existing project what [Downloaded] does in a new one.
func (p *Project) Download(t testing.TB, constellations ...string) {
	t.Helper()
	p.link(t, machines.project(t), constellations)
}

// Built returns a project like that of [Downloaded] whose cache also has the
// base images of such machines, built as root. It shares files with other
// projects: tests must not write to them or change their owners.
func Built(t testing.TB, constellations ...string) *Project {
	t.Helper()
	NeedRoot(t)
	p := New(t, nil)
	p.Build(t, constellations...)
	return p
}

// Build does in an existing project without a cache what [Built] does in a new
// one.
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

// DownloadedKernel returns a project like that of [Downloaded], for machines
// with [Packages] and with kernels that are built. In the second project
// [Kernel] is already compiled from the real source.
func DownloadedKernel(t testing.TB, constellations ...string) (p, compiled *Project) {
	t.Helper()
	p, compiled = New(t, nil), kernels.project(t)
	p.link(t, compiled, constellations)
	for _, c := range constellations {
		p.Write(t, "constellations/"+c+"/modules.config", KernelFragment())
	}
	return p, compiled
}

// link copies the lock of a seed's project and links its downloads.
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

// project returns the seed's project, and rebuilds it if it is older than
// [seedAge]. The project outlives the test. The file "whole" marks a complete
// project of this description, because a killed run also leaves a lock.
func (s seed) project(t testing.TB) *Project {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("%s-%d", s.name, os.Getuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock := lockFile(t, dir+".lock")
	defer unlock()
	p := &Project{Root: dir}
	whole := s.manifest + KernelFragment()
	fi, err := os.Stat(p.Path("whole"))
	if text, _ := os.ReadFile(p.Path("whole")); err == nil && string(text) == whole && time.Since(fi.ModTime()) < seedAge {
		return p
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	p.Write(t, "constellations/seed/manifest.yml", s.manifest)
	p.Write(t, "constellations/seed/modules.config", KernelFragment())
	if o := p.Run(t, s.args...); o.Exit != 0 {
		os.RemoveAll(dir)
		Skip(t, "needs a Debian archive and the programs that build an image: %s", o.Stderr)
	}
	p.Write(t, "whole", whole)
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
