package runner

import (
	"debug/elf"
	"fmt"
	"path/filepath"
	"runtime"
)

// emulators are qemu-user's names of what QEMU calls the machine, where it
// differs.
var emulators = map[string]string{"ppc64": "ppc64le"}

// HostArch is QEMU's name for the architecture of this program.
func HostArch() string {
	if a, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i386", "ppc64le": "ppc64"}[runtime.GOARCH]; ok {
		return a
	}
	return runtime.GOARCH
}

// Emulator finds the program of qemu-user that runs programs of another
// architecture, as QEMU names it. It has to be static: in a sandbox there are
// only the libraries of the other one.
func Emulator(arch string) (file string, err error) {
	name := arch
	if n, ok := emulators[arch]; ok {
		name = n
	}
	for _, program := range []string{"qemu-" + name + "-static", "qemu-" + name} {
		for _, d := range programDirs {
			file := filepath.Join(d, program)
			if f, err := elf.Open(file); err == nil {
				interp := f.Section(".interp")
				f.Close()
				if interp == nil {
					return filepath.EvalSymlinks(file)
				}
			}
		}
	}
	return "", fmt.Errorf("programs of %s need qemu-%s-static to run here (Debian, Ubuntu: apt install qemu-user-static; Fedora: dnf install qemu-user-static-%s; Alpine: apk add qemu-%s)", arch, name, name, name)
}
