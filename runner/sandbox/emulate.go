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

// emulate makes the kernel start foreign programs by an interpreter, for this
// user namespace, which is this sandbox's alone, and as long as this process
// lives: the rules are those of a file system that each user namespace has for
// itself since Linux 6.7, and that nothing but a descriptor of this process
// holds. Older kernels have those of
// the host alone, which then has to have a rule already.
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
		return fmt.Errorf("this kernel gives a user no rules of its own for that, which takes Linux 6.7 with binfmt_misc; the host has to have them, for %s (Debian, Ubuntu: apt install qemu-user-static binfmt-support)", interpreter)
	}
	if err != nil {
		return fmt.Errorf("mount binfmt_misc: %w", err)
	}
	register, err := unix.Openat(fd, "register", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open binfmt_misc's register: %w", err)
	}
	defer unix.Close(register)
	// As /proc/PID/exe the file can be reached from inside: by a mount on which
	// even its owner can change nothing.
	tree, err := unix.OpenTree(unix.AT_FDCWD, interpreter, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID})
	}
	if err != nil {
		return fmt.Errorf("show %s read-only: %w", interpreter, err)
	}
	defer unix.Close(tree)
	if _, err := unix.Write(register, []byte(rule(a.ELF, "meros-"+machine, fmt.Sprintf("/proc/self/fd/%d", tree)))); err != nil {
		return fmt.Errorf("make a rule of binfmt_misc for %s: %w", interpreter, err)
	}
	return nil // fd stays open: with it, the rules go
}

// binfmtMisc opens this user namespace's file system of rules, mounted nowhere.
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

// hostRule tells whether one of the host's rules, in dir, is for programs of
// arch, works in other roots, and names the interpreter: another one would not
// be the one that keys speak of.
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
				named, _ = filepath.EvalSymlinks(i) // "" if it is not there
			}
		}
		start := fmt.Sprintf("7f454c46%02x%02x", byte(h.Class), byte(h.Data))
		return lines[0] == "enabled" && strings.HasPrefix(magic, start) && strings.HasSuffix(magic, machine) && strings.Contains(flags, "F") && named == interpreter
	})
}
