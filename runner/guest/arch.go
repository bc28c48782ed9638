package guest

import (
	"debug/elf"
	"encoding/binary"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"meros/runner/arch"
)

// programs are some of which a system has at least one. The links to them may
// be absolute, so they are named where distributions have the file itself.
var programs = []string{
	"usr/bin/dash", "bin/dash", "usr/bin/bash", "bin/bash", "usr/bin/busybox", "bin/busybox",
	"usr/lib/systemd/systemd", "lib/systemd/systemd", "usr/bin/coreutils", "usr/bin/ls", "bin/ls",
}

// Arch finds the architecture of a system in a tree, which may be hostile, as
// QEMU names it, and the program that tells. Both are empty if none does.
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

// archOf is the architecture of a program, or empty if it is none.
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
	return err == nil && a.Half != "" && a.Half == system
}
