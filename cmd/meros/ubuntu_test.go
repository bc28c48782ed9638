// This file tests machines of Ubuntu against a small archive.

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/bench/lab"
	"meros/constellations"
	"meros/runner/debian"
)

// TestUbuntu builds an Ubuntu machine, with the same code as Debian but with an
// archive and keys of Ubuntu. The archive is small and has Debian's packages, some
// under Ubuntu's names.
func TestUbuntu(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "gpg", "apt-get", "e2fsck", "qemu-img")
	p := lab.Downloaded(t, "from", "u")
	lock, err := constellations.ReadLock(p.Path("constellations/from/meros.lock"))
	if err != nil {
		t.Fatal(err)
	}
	section := lock.Section(constellations.Section{Distribution: "debian", Suite: "bookworm", Arch: "x86_64"})
	var debs []string
	for _, d := range section.Base {
		debs = append(debs, p.Path(filepath.Join("data/cache/cas", d.SHA256[:2], d.SHA256)))
	}
	kernel := kernelDebs(t, p, section.Kernel[0])
	archive, err := os.MkdirTemp("", "meros-ubuntu-") // the user _apt must be able to read it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(archive) })
	os.Chmod(archive, 0o755)
	if _, err := debian.LocalArchive(t.Context(), archive, "noble", "amd64", append(debs, kernel...), section.Date); err != nil {
		t.Fatal(err)
	}
	plainPool(t, archive)
	key := lab.NewReleaseKey(t)
	dists := filepath.Join(archive, "dists/noble")
	key.Sign(t, "--output", filepath.Join(dists, "InRelease"), "--clearsign", filepath.Join(dists, "Release"))
	if err := os.Remove(filepath.Join(dists, "Release")); err != nil {
		t.Fatal(err)
	}
	manifest := "virtual_machines:\n  m: {distribution: ubuntu, mirror: 'file://" + archive + "', keys: [" + key.Keyring + "], kernel: KERNEL}\n"
	if err := os.Remove(p.Path("constellations/u/meros.lock")); err != nil {
		t.Fatal(err)
	}
	p.Write(t, "constellations/u/manifest.yml", strings.Replace(manifest, "KERNEL", "distro", 1))
	p.Must(t, "build", "u")
	pinned := readFile(t, p.Path("constellations/u/meros.lock"))
	for _, want := range []string{"\nubuntu noble x86_64 file://" + archive, "\nindex ubuntu noble ", "\nkernel\npackage linux-image-6.8.0-31-generic "} {
		if !strings.Contains(pinned, want) {
			t.Errorf("the lock has no %q:\n%s", want, pinned)
		}
	}
	tree := filesOf(t, soundDisk(t, p.Path("data/disks/u-m.qcow2")), 1<<20)
	if got := readFile(t, filepath.Join(tree, "etc/apt/sources.list")); got != "deb file://"+archive+" noble main\n" {
		t.Errorf("the machine's archive is %q", got)
	}
	// meros trusts no archive without its key.
	other := lab.NewReleaseKey(t)
	q := lab.New(t, map[string]string{"constellations/u/manifest.yml": strings.Replace(strings.Replace(manifest, key.Keyring, other.Keyring, 1), "KERNEL", "distro", 1)})
	fails(t, q.Run(t, "lock", "u"), 1, "lock u: noble x86_64", "signed with a key that is not in")
	q.Write(t, "constellations/u/manifest.yml", strings.Replace(strings.Replace(manifest, "ubuntu,", "ubuntu, suite: nobel,", 1), "KERNEL", "distro", 1))
	fails(t, q.Run(t, "lock", "u"), 1, "there is no such suite in that archive", `did you mean \"noble\"?`)
	q.Write(t, "constellations/u/manifest.yml", strings.NewReplacer("ubuntu,", "debian, suite: bookwrm,", "KERNEL", "distro").Replace(manifest))
	fails(t, q.Run(t, "lock", "u"), 1, "there is no such suite in that archive", `did you mean \"bookworm\"?`)
	// Without keys in the manifest meros needs Ubuntu's own keyring.
	if _, err := os.Stat("/usr/share/keyrings/ubuntu-archive-keyring.gpg"); err != nil {
		q.Write(t, "constellations/u/manifest.yml", "virtual_machines:\n  m: {distribution: ubuntu, mirror: 'file://"+archive+"'}\n")
		fails(t, q.Run(t, "lock", "u"), 1, "apt install ubuntu-archive-keyring")
	}
}

// kernelDebs returns two packages: a Debian kernel under Ubuntu's name for a
// kernel, and the metapackage that depends on it.
func kernelDebs(t *testing.T, p *lab.Project, kernel constellations.Package) []string {
	t.Helper()
	lab.Need(t, "dpkg-deb")
	dir := t.TempDir()
	const script = `set -e
cd "$DIR"
dpkg-deb -R "$DEB" image
rm -rf image/lib/modules/*/kernel/drivers/net/ethernet image/DEBIAN/p* image/DEBIAN/conffiles image/DEBIAN/triggers
printf 'Package: linux-image-6.8.0-31-generic\nVersion: 6.8.0-31.31\nArchitecture: amd64\nMaintainer: test\nDescription: kernel\n' > image/DEBIAN/control
dpkg-deb -b -Zzstd image image.deb
mkdir -p meta/DEBIAN
printf 'Package: linux-image-virtual\nVersion: 6.8.0-31.31\nArchitecture: amd64\nMaintainer: test\nDepends: linux-image-6.8.0-31-generic\nDescription: kernel\n' > meta/DEBIAN/control
dpkg-deb -b -Zgzip meta meta.deb`
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), "DIR="+dir, "DEB="+p.Path(filepath.Join("data/cache/cas", kernel.SHA256[:2], kernel.SHA256)))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return []string{filepath.Join(dir, "image.deb"), filepath.Join(dir, "meta.deb")}
}

// plainPool replaces an archive's links by copies, because the user _apt cannot
// read the targets of the links.
func plainPool(t *testing.T, archive string) {
	t.Helper()
	links, err := filepath.Glob(filepath.Join(archive, "pool", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		b, err := os.ReadFile(l)
		if err == nil {
			err = os.Remove(l)
		}
		if err == nil {
			err = os.WriteFile(l, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
