// This file tests machines of another architecture.

package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/bench/lab"
	"meros/runner"
)

// TestForeign builds aarch64 machines as an ordinary user. It builds the image of
// a Debian machine, and follows an Alpine machine to its shutdown.
func TestForeign(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-aarch64", "e2fsck", "qemu-img")
	if _, err := runner.Emulator("aarch64"); err != nil {
		lab.Skip(t, "%v", err)
	}
	p := lab.New(t, map[string]string{
		"constellations/deb/manifest.yml":      "virtual_machines:\n  m: {arch: aarch64, suite: bookworm}\n",
		"constellations/deb/m/hooks/01.chroot": "#!/bin/sh\nset -e\nuname -m > /etc/hooked\ndpkg --print-architecture >> /etc/hooked\nperl -e 'print \"perl\\n\"' >> /etc/hooked\n",
	})
	meros := func(args ...string) *lab.Outcome {
		t.Helper()
		o := lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, args...)))
		if o.Exit != 0 {
			t.Fatalf("meros %q: exit status %d\n%s%s", args, o.Exit, o.Stdout, o.Stderr)
		}
		return o
	}
	meros("lock", "deb")
	o := lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, "build", "deb", "--locked")))
	fails(t, o, 1, "plan deb/m", "the first program of a machine of aarch64 is meros itself", `"hint":"build it in meros' source: `+"`CGO_ENABLED=0 GOARCH=arm64 go build", "`--rootfs-only`")
	lab.ForeignProgram(t, "arm64", "aarch64")
	o = meros("build", "deb", "--locked")
	t.Logf("built Debian in %v", o.Wall)

	tree := filesOf(t, soundDisk(t, p.Path("data/disks/deb-m.qcow2")), 1<<20)
	if got, want := readFile(t, filepath.Join(tree, "etc/hooked")), "aarch64\narm64\nperl\n"; got != want {
		t.Errorf("the hook saw %q, want %q", got, want)
	}
	f, err := elf.Open(filepath.Join(tree, "usr/bin/dash"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != elf.EM_AARCH64 {
		t.Errorf("dash is a program for %v", f.Machine)
	}
	if out, err := exec.Command("qemu-aarch64-static", "-L", tree, filepath.Join(tree, "usr/bin/perl"), "-e", "print 6 * 7").CombinedOutput(); err != nil || string(out) != "42" {
		t.Errorf("the image's perl printed %q, error %v", out, err)
	}
	if left, _ := filepath.Glob(filepath.Join(tree, "usr/bin/qemu-*")); len(left) > 0 {
		t.Errorf("the image has the emulator %v", left)
	}

	t.Run("alpine", func(t *testing.T) {
		m := stockMirror(t, "aarch64")
		m.AddBoot(t, p, "constellations/deb/meros.lock")
		p.Write(t, "constellations/alp/manifest.yml", alpineManifest(m, "    arch: aarch64\n    packages: [hello, openssh-server]\n"))
		p.Write(t, "constellations/alp/m/hooks/01.chroot", "#!/bin/sh\nset -e\nuname -m > /etc/hooked\n")
		if err := os.Chmod(p.Path("constellations/alp/m/hooks/01.chroot"), 0o755); err != nil {
			t.Fatal(err)
		}
		meros("lock", "alp")
		t.Logf("built Alpine in %v", meros("build", "alp", "--locked").Wall)
		sameTree(t, p.Path("data/disks/alp-m.qcow2"), m.RootFS())
		t.Cleanup(func() {
			lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, "shutdown", "alp", "--wait=0")))
			settled(t, p.Root) // the shared ssh connection ends shortly after the machine
		})
		t.Logf("ready after %v", meros("init", "alp").Wall)
		out := meros("connect", "alp", "m", "--", "uname -m; cat /etc/hooked /etc/hello-installed; hello").Stdout
		if want := "aarch64\naarch64\nhello\nhello\n"; out != want {
			t.Errorf("the machine printed %q, want %q", out, want)
		}
		onConsole(t, meros, "alp", "m", "m login:")
		if o := meros("shutdown", "alp"); !strings.Contains(o.Stderr, "shut down by poweroff over ssh") {
			t.Errorf("shutdown printed\n%s", o.Stderr)
		}
		hooksInVM(t, p, meros)
	})
	t.Run("uefi", func(t *testing.T) {
		lab.Nightly(t) // the firmware and Debian's systemd, emulated
		bootsByUEFI(t, p, meros)
	})
	leftovers(t, p)
}

// hooksInVM runs the hooks of an Alpine machine in the booted machine. Afterwards
// it builds the machine without them again.
func hooksInVM(t *testing.T, p *lab.Project, meros func(...string) *lab.Outcome) {
	manifest := readFile(t, p.Path("constellations/alp/manifest.yml"))
	p.Write(t, "constellations/alp/manifest.yml", manifest+"    hooks: {in: vm}\n")
	p.Write(t, "constellations/alp/m/hooks/01.chroot", "#!/bin/sh\nset -e\nuname -m > /etc/hooked\ntr '\\0' '\\n' < /proc/cmdline > /etc/booted\n")
	meros("build", "alp", "--locked", "--rootfs-only")
	tree := filesOf(t, soundDisk(t, p.Path("data/disks/alp-m.qcow2")), 1<<20)
	if got := readFile(t, filepath.Join(tree, "etc/hooked")); got != "aarch64\n" || !strings.Contains(readFile(t, filepath.Join(tree, "etc/booted")), "console=ttyAMA0") {
		t.Errorf("the hook saw %q", got)
	}
	p.Write(t, "constellations/alp/manifest.yml", manifest)
	meros("build", "alp", "--locked") // bootsByUEFI uses its disk
}

// bootsByUEFI builds a machine on the image of another machine, as the example
// aarch64 does, and boots it with UEFI firmware.
func bootsByUEFI(t *testing.T, p *lab.Project, meros func(...string) *lab.Outcome) {
	const firmware = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"
	if _, err := os.Stat(firmware); err != nil {
		lab.Skip(t, "%v (apt install qemu-efi-aarch64)", err)
	}
	image, err := os.ReadFile(p.Path("data/disks/alp-m.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	p.Write(t, "constellations/uefi/old.qcow2", string(image))
	p.Write(t, "constellations/uefi/manifest.yml", "virtual_machines:\n  m: {arch: aarch64, suite: bookworm, base: old.qcow2, memory: 512M, cpus: 2, extra_args: [\"-bios "+firmware+"\"]}\n")
	p.Write(t, "constellations/uefi/m/hooks/01.chroot", "#!/bin/sh\nset -e\nuname -m > /etc/hooked-again\n")
	if err := os.Chmod(p.Path("constellations/uefi/m/hooks/01.chroot"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, "shutdown", "uefi", "--wait=0"))) })
	meros("lock", "uefi")
	t.Logf("ready with UEFI after %v", meros("init", "uefi").Wall)
	out := meros("connect", "uefi", "m", "--", "cat /etc/hooked-again; ls -d /sys/firmware/efi").Stdout
	if want := "aarch64\n/sys/firmware/efi\n"; out != want {
		t.Errorf("the machine printed %q, want %q", out, want)
	}
}
