package alpine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// runlevels are the services of openrc that a virtual machine has, as far as
// its packages bring them: those that setup-alpine(8) enables.
var runlevels = map[string][]string{
	"sysinit":  {"devfs", "dmesg", "mdev", "hwdrivers"},
	"boot":     {"modules", "sysctl", "hostname", "bootmisc", "syslog", "swap", "localmount", "networking", "seedrng"},
	"default":  {"acpid", "crond", "sshd", "local"},
	"shutdown": {"killprocs", "mount-ro", "savecache"},
}

// serial is the line of inittab(5) that has a login prompt on the console.
const serial = "console::respawn:/sbin/getty -L 115200 console vt100\n"

// inittab is that of busybox' init without openrc.
const inittab = `# Written by meros for a system without openrc.
::sysinit:/etc/init.d/rcS
` + serial + `::respawn:/sbin/acpid -f
::ctrlaltdel:/sbin/reboot
::shutdown:/sbin/swapoff -a
::shutdown:/bin/umount -a -r
`

// start is what busybox' init runs first.
const start = `#!/bin/sh
# Written by meros for a system without openrc. What is executable in
# /etc/local.d and ends in .start is run last.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /dev/pts /dev/shm
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs /run
mount -t devpts -o gid=5,mode=0620,noexec,nosuid devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
hostname -F /etc/hostname
swapon -a
awk '$1 !~ /^#/ && $2 ~ /^\// { print $2 }' /etc/fstab | xargs -r mkdir -p
mount -a
ifup -a
if test -x /usr/sbin/sshd; then
	mkdir -p /run/sshd
	/usr/sbin/sshd
fi
for f in /etc/local.d/*.start; do
	if test -x "$f"; then "$f"; fi
done
`

// Setup makes a system one that can be booted, by openrc or by busybox' init
// alone; kind "" is openrc if it is there.
func Setup(tree, kind string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = root.Lstat("sbin/openrc")
	openrc := err == nil
	switch {
	case kind == "openrc" && !openrc:
		return errors.New("setup is openrc, and the package openrc is not among its packages")
	case kind == "busybox" || !openrc:
		return errors.Join(
			write(root, "etc/inittab", inittab, 0o644), keep(root, "etc/init.d/rcS", start, 0o755),
			keep(root, "etc/acpi/PWRF/00000080", "#!/bin/sh\nexec /sbin/poweroff\n", 0o755))
	}
	if err := console(root); err != nil {
		return err
	}
	for level, services := range runlevels {
		for _, s := range services {
			if _, err := root.Lstat(path.Join("etc/init.d", s)); err != nil {
				continue
			}
			dir := path.Join("etc/runlevels", level)
			if err := root.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := root.Symlink("/etc/init.d/"+s, path.Join(dir, s)); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return nil
}

// console adds a login prompt on the console to what openrc has.
func console(root *os.Root) error {
	b, err := root.ReadFile("etc/inittab")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if slices.Contains(strings.SplitAfter(string(b), "\n"), serial) {
		return nil
	}
	return write(root, "etc/inittab", string(b)+serial, 0o644)
}

// keep writes a file if there is none.
func keep(root *os.Root, name, text string, mode os.FileMode) error {
	if _, err := root.Lstat(name); err == nil {
		return nil
	}
	return write(root, name, text, mode)
}

// write replaces a file of a tree that may be hostile.
func write(root *os.Root, name, text string, mode os.FileMode) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// Trust makes a mirror the one that the system's apk asks, and adds keys by the
// names of their files.
func Trust(tree, mirror, branch string, keys map[string][]byte) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	text := ""
	for _, r := range Repositories {
		text += fmt.Sprintf("%s/%s/%s\n", mirror, branch, r)
	}
	err = write(root, "etc/apk/repositories", text, 0o644)
	for name, b := range keys {
		err = errors.Join(err, write(root, path.Join("etc/apk/keys", path.Base(name)), string(b), 0o644))
	}
	return err
}
