// This file finds the architecture of a system by its programs.

package guest

import (
	"debug/elf"
	"encoding/binary"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"meros/runner/arch"
)

// programs lists files of which every system has at least one. Links to them may be
// absolute, so the list names the places of the files themselves.
var programs = []string{
	"usr/bin/dash", "bin/dash", "usr/bin/bash", "bin/bash", "usr/bin/busybox", "bin/busybox",
	"usr/lib/systemd/systemd", "lib/systemd/systemd", "usr/bin/coreutils", "usr/bin/ls", "bin/ls",
}

// Arch returns the architecture of a system in a tree, by QEMU's name, and the
// program that it was read from. Both are empty if no program was found. The tree
// may be hostile.
func Arch(tree string) (name, program string, err error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return "", "", err
	}
	defer root.Close()
	for _, program := range programs {
		if name := archOf(root, program); name != "" {
			return name, program, nil
		}
	}
	return "", "", nil
}

// archOf returns the architecture of a program, or "".
func archOf(root *os.Root, name string) string {
	if fi, err := root.Lstat(name); err != nil || !fi.Mode().IsRegular() {
		return ""
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	var header [20]byte // elf(5), up to the machine
	if _, err := io.ReadFull(f, header[:]); err != nil || string(header[:elf.EI_CLASS]) != elf.ELFMAG {
		return ""
	}
	machine := binary.LittleEndian.Uint16(header[18:])
	if elf.Data(header[elf.EI_DATA]) == elf.ELFDATA2MSB {
		machine = binary.BigEndian.Uint16(header[18:])
	}
	a, _ := arch.FindELF(elf.Machine(machine))
	return a.Name
}

// Runs reports whether a machine runs systems of an architecture: its own, or
// the 32-bit one that its processor has as well.
func Runs(machine, system string) bool {
	if machine == system {
		return true
	}
	a, err := arch.Find(machine)
	return err == nil && a.Compat != "" && a.Compat == system
}
