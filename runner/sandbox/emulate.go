package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// elfHeader is how the header of a program begins, elf(5), as far as it tells
// architectures apart: the first 20 bytes.
type elfHeader struct {
	class   byte // 1 is 32 bits, 2 is 64
	order   byte // 1 is little endian, 2 is big
	machine byte // EM_*, elf.h
}

// headers are those of the architectures, by QEMU's names.
var headers = map[string]elfHeader{
	"x86_64": {2, 1, 62}, "i386": {1, 1, 3}, "aarch64": {2, 1, 183}, "arm": {1, 1, 40}, "riscv64": {2, 1, 243}, "ppc64": {2, 1, 21}, "s390x": {2, 2, 22},
}

// rule is the line that names an interpreter for programs of the header, as the
// kernel document admin-guide/binfmt-misc has it. F opens the interpreter now,
// as it is not in the root where it will be used; C keeps what a program's file
// gives it (setuid); P lets it have its own name.
func (h elfHeader) rule(name, interpreter string) string {
	magic := []byte{0x7f, 'E', 'L', 'F', h.class, h.order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, h.machine, 0}
	mask := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff} // the ABI may be any, the type 2 or 3
	if h.order == 2 {
		magic[16], magic[17], magic[18], magic[19] = 0, 2, 0, h.machine
		mask[16], mask[17] = 0xff, 0xfe
	}
	hex := func(b []byte) string {
		var s strings.Builder
		for _, c := range b {
			fmt.Fprintf(&s, `\x%02x`, c)
		}
		return s.String()
	}
	return fmt.Sprintf(":%s:M::%s:%s:%s:FPC", name, hex(magic), hex(mask), interpreter)
}

// emulate makes the kernel start foreign programs by an interpreter, for this
// user namespace, which is this sandbox's alone, and as long as this process
// lives: the rules are those of a file system that each user namespace has for
// itself since Linux 6.7, and that nothing but a descriptor of this process
// holds. Older kernels have those of
// the host alone, which then has to have a rule already.
func emulate(arch, interpreter string) error {
	h, ok := headers[arch]
	if !ok {
		return errors.New("nothing is known of its programs")
	}
	fd, err := binfmtMisc()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) {
		if hostRule("/proc/sys/fs/binfmt_misc", arch, interpreter) {
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
	if _, err := unix.Write(register, []byte(h.rule("meros-"+arch, fmt.Sprintf("/proc/self/fd/%d", tree)))); err != nil {
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
func hostRule(dir, arch, interpreter string) bool {
	h := headers[arch]
	machine := fmt.Sprintf("%02x00", h.machine)
	if h.order == 2 {
		machine = fmt.Sprintf("00%02x", h.machine)
	}
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
		start := fmt.Sprintf("7f454c46%02x%02x", h.class, h.order)
		return lines[0] == "enabled" && strings.HasPrefix(magic, start) && strings.HasSuffix(magic, machine) && strings.Contains(flags, "F") && named == interpreter
	})
}
