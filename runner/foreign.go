// This file finds the emulator for programs of another architecture, and the
// user namespace that its rule is valid in. The sandbox itself registers the rule.

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
	"meros/runner/hint"
)

// Emulator returns the file of the qemu-user program that runs programs of
// another architecture, by QEMU's name. The program is static, because a foreign
// sandbox only holds libraries of the other architecture.
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
	err = fmt.Errorf("programs of %s need qemu-%s-static to run here", machine, name)
	return "", hint.Add(err, "Debian, Ubuntu: `apt install qemu-user-static`; Fedora: `dnf install qemu-user-static-%s`; Alpine: `apk add qemu-%[1]s`", name)
}

// ownUserNamespace gives a process its own user namespace, which maps each id to
// itself. The rules for foreign programs belong to a user namespace, and meros
// must change neither the host's rules nor those of other sandboxes.
func ownUserNamespace(attr *syscall.SysProcAttr) (err error) {
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.GidMappingsEnableSetgroups = true
	if attr.UidMappings, err = identity("/proc/self/uid_map"); err == nil {
		attr.GidMappings, err = identity("/proc/self/gid_map")
	}
	return err
}

// identity returns mappings of all ids in an id map, user_namespaces(7), to
// themselves.
func identity(file string) ([]syscall.SysProcIDMap, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []syscall.SysProcIDMap
	for line := range strings.Lines(string(b)) {
		var inner, outer, count int64
		if _, err := fmt.Sscan(line, &inner, &outer, &count); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		count = min(count, math.MaxInt32) // no user has a larger id
		all = append(all, syscall.SysProcIDMap{ContainerID: int(inner), HostID: int(inner), Size: int(count)})
	}
	return all, nil
}
