// This file registers the emulator of a sandbox's foreign programs with the kernel.

package sandbox

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"meros/runner/arch"
	"meros/runner/hint"
)

// rule returns the line that names an interpreter for programs with a header,
// in the format of the kernel document admin-guide/binfmt-misc. Flag F opens the
// interpreter now, because the root that uses it does not contain it. Flag C
// preserves setuid and setgid of the program's file. Flag P passes on the
// program's own name.
func rule(h arch.ELF, name, interpreter string) string {
	// The ABI may be any, the type 2 or 3.
	magic := []byte{0x7f, 'E', 'L', 'F', byte(h.Class), byte(h.Data), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0}
	mask := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff}
	if h.Data == elf.ELFDATA2MSB {
		magic[16], magic[17] = 0, 2
		mask[16], mask[17] = 0xff, 0xfe
	}
	copy(magic[18:], machineBytes(h))
	hex := func(b []byte) string {
		var s strings.Builder
		for _, c := range b {
			fmt.Fprintf(&s, `\x%02x`, c)
		}
		return s.String()
	}
	return fmt.Sprintf(":%s:M::%s:%s:%s:FPC", name, hex(magic), hex(mask), interpreter)
}

// machineBytes returns a header's machine in the header's byte order.
func machineBytes(h arch.ELF) []byte {
	if h.Data == elf.ELFDATA2MSB {
		return binary.BigEndian.AppendUint16(nil, uint16(h.Machine))
	}
	return binary.LittleEndian.AppendUint16(nil, uint16(h.Machine))
}

// emulate makes the kernel start programs of machine, by QEMU's name, with an
// interpreter. The rule is valid in the user namespace of this sandbox, as long as
// this process lives. Since Linux 6.7 each user namespace has its own binfmt_misc
// file system with rules, and only a descriptor of this process holds it. On older
// kernels the host must already have a rule.
func emulate(machine, interpreter string) error {
	a, err := arch.Find(machine)
	if err != nil {
		return err
	}
	fd, err := binfmtMisc()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) {
		if hostRule("/proc/sys/fs/binfmt_misc", a.ELF, interpreter) {
			return nil
		}
		err := fmt.Errorf("neither the kernel nor the host has a binfmt_misc rule for %s", interpreter)
		return hint.Add(err, "use Linux 6.7 or newer with binfmt_misc, or add the rule to the host: Debian, Ubuntu: `apt install qemu-user-static binfmt-support`")
	}
	if err != nil {
		return fmt.Errorf("mount binfmt_misc: %w", err)
	}
	register, err := unix.Openat(fd, "register", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open binfmt_misc's register: %w", err)
	}
	defer unix.Close(register)
	// The sandbox can reach the file as /proc/PID/exe. On this mount not even its
	// owner can change it.
	tree, err := unix.OpenTree(unix.AT_FDCWD, interpreter, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID})
	}
	if err != nil {
		return fmt.Errorf("mount %s read-only: %w", interpreter, err)
	}
	defer unix.Close(tree)
	if _, err := unix.Write(register, []byte(rule(a.ELF, "meros-"+machine, fmt.Sprintf("/proc/self/fd/%d", tree)))); err != nil {
		return fmt.Errorf("register a binfmt_misc rule for %s: %w", interpreter, err)
	}
	return nil // fd stays open: closing it removes the rules
}

// binfmtMisc opens the binfmt_misc file system of this user namespace without
// mounting it.
func binfmtMisc() (int, error) {
	fs, err := unix.Fsopen("binfmt_misc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return 0, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}

// hostRule reports whether one of the host's rules, in dir, is for programs with
// the header, works in other roots, and names the interpreter. Another interpreter
// would differ from the one in the key.
func hostRule(dir string, h arch.ELF, interpreter string) bool {
	machine := fmt.Sprintf("%x", machineBytes(h))
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	return slices.ContainsFunc(files, func(file string) bool {
		b, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		lines := strings.Split(string(b), "\n")
		magic, flags, named := "", "", ""
		for _, l := range lines {
			if m, ok := strings.CutPrefix(l, "magic "); ok {
				magic = m
			}
			if f, ok := strings.CutPrefix(l, "flags: "); ok {
				flags = f
			}
			if i, ok := strings.CutPrefix(l, "interpreter "); ok {
				named, _ = filepath.EvalSymlinks(i) // "" if it does not exist
			}
		}
		start := fmt.Sprintf("7f454c46%02x%02x", byte(h.Class), byte(h.Data))
		return lines[0] == "enabled" && strings.HasPrefix(magic, start) && strings.HasSuffix(magic, machine) && strings.Contains(flags, "F") && named == interpreter
	})
}
