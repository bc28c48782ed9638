// This file tests which archives a suite comes from.

package debian

import "testing"

// Ubuntu has all architectures but the PC's on another server, with their
// security updates. Archives accepts dpkg's names and QEMU's.
func TestUbuntuArchives(t *testing.T) {
	const (
		pc    = "deb http://archive.ubuntu.com/ubuntu noble main universe\ndeb http://archive.ubuntu.com/ubuntu noble-updates main universe\ndeb http://security.ubuntu.com/ubuntu noble-security main universe\n"
		ports = "deb http://ports.ubuntu.com/ubuntu-ports noble main universe\ndeb http://ports.ubuntu.com/ubuntu-ports noble-updates main universe\ndeb http://ports.ubuntu.com/ubuntu-ports noble-security main universe\n"
	)
	for arch, want := range map[string]string{
		"amd64": pc, "x86_64": pc, "i386": pc,
		"arm64": ports, "aarch64": ports, "armhf": ports, "arm": ports, "ppc64el": ports, "ppc64": ports, "s390x": ports, "riscv64": ports,
	} {
		if got, err := SourcesList(Ubuntu, "noble", arch, ""); err != nil || got != want {
			t.Errorf("%s: %v\n%s", arch, err, got)
		}
	}
	mirror, err := SourcesList(Ubuntu, "noble", "arm64", "http://mirror.example/u/")
	if want := "deb http://mirror.example/u noble main\n"; err != nil || mirror != want {
		t.Errorf("with a mirror: %v\n%s", err, mirror)
	}
}
