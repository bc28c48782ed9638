package runner

import (
	"debug/elf"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"meros/runner/arch"
)

// Emulator finds the program of qemu-user that runs programs of another
// architecture, as QEMU names it. It has to be static: in a sandbox there are
// only the libraries of the other one.
func Emulator(machine string) (file string, err error) {
	name := machine
	if a, err := arch.Find(machine); err == nil {
		name = a.Emulator
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
	return "", fmt.Errorf("programs of %s need qemu-%s-static to run here (Debian, Ubuntu: apt install qemu-user-static; Fedora: dnf install qemu-user-static-%s; Alpine: apk add qemu-%s)", machine, name, name, name)
}

// ownUserNamespace gives a process a user namespace of its own, in which all
// ids are what they are here. What runs foreign programs is a matter of the
// user namespace: neither the host's rules nor other sandboxes' are ours to
// change.
func ownUserNamespace(attr *syscall.SysProcAttr) (err error) {
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.GidMappingsEnableSetgroups = true
	if attr.UidMappings, err = identity("/proc/self/uid_map"); err == nil {
		attr.GidMappings, err = identity("/proc/self/gid_map")
	}
	return err
}

// identity maps the ids that a map has, user_namespaces(7), to themselves.
func identity(file string) ([]syscall.SysProcIDMap, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []syscall.SysProcIDMap
	for line := range strings.Lines(string(b)) {
		var inside, outside, count int64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		count = min(count, math.MaxInt32) // ids above that are nobody's
		all = append(all, syscall.SysProcIDMap{ContainerID: int(inside), HostID: int(inside), Size: int(count)})
	}
	return all, nil
}
