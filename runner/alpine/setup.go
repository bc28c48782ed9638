// This file makes a system bootable: it enables the services of openrc, or
// configures busybox' init. The text of its scripts is part of images.

package alpine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"meros/runner/hint"
)

// runlevels lists the services of openrc that Setup enables if a package has them:
// those that setup-alpine(8) enables, and our own. The kernel has set the clock, so
// osclock avoids reading it again.
var runlevels = map[string][]string{
	"sysinit":  {"devfs", "dmesg", "mdev", "hwdrivers"},
	"boot":     {"modules", "sysctl", "hostname", "bootmisc", "syslog", "swap", mountPoints, "localmount", "networking", "seedrng", "osclock"},
	"default":  {"acpid", "crond", "sshd", "local"},
	"shutdown": {"killprocs", "mount-ro", "savecache"},
}

// Lines of inittab(5): a login prompt on the console, and the program that listens
// to the power button.
const (
	serial = "console::respawn:/sbin/getty -L 115200 console vt100\n"
	button = "::respawn:/sbin/acpid -f\n"
)

// The script that acpid runs when the button is pressed, and its path.
const (
	pressed = "etc/acpi/PWRF/00000080"
	off     = "#!/bin/sh\nexec /sbin/poweroff\n"
)

// mountPoints is a service of meros. If a directory is missing, localmount of
// openrc fails, and so do all services that need it. A mount may be below another
// mount. So the service mounts each file system as soon as its directory exists,
// in the order of fstab(5).
const mountPoints = "mountpoints"

const mountPointsService = `#!/sbin/openrc-run
# Written by meros: directories that /etc/fstab mounts on, and what is there.

depend() {
	after clock fsck modules root
	before localmount
}

start() {
	ebegin "Making mount points"
` + mountAll + `	eend 0
}
`

// mountAll creates the directories of fstab(5) and mounts the local file systems.
const mountAll = `	awk '$1 !~ /^#/ && $2 ~ /^\// && $4 !~ /noauto|_netdev/ { print $2 }' /etc/fstab | while read -r dir; do
		mkdir -p "$dir"
		mountpoint -q "$dir" || mount "$dir"
	done
`

// inittab is the configuration of busybox' init without openrc.
const inittab = `# Written by meros for a system without openrc.
::sysinit:/etc/init.d/rcS
` + serial + button + `::ctrlaltdel:/sbin/reboot
::shutdown:/etc/init.d/rcK
`

// start is the script that busybox' init runs first.
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
if test -e /etc/fstab; then
` + mountAll + `fi
# In the background: a network that does not answer keeps nobody from the console.
{
	ifup -a >/run/ifup.log 2>&1 || cat /run/ifup.log
	if test -x /usr/sbin/sshd; then
		mkdir -p /run/sshd
		/usr/sbin/sshd
	fi
	for f in /etc/local.d/*.start; do
		if test -x "$f"; then "$f"; fi
	done
} &
`

// stop is the script that busybox' init runs last. It ends all processes itself:
// init would end them after the script, and their open files would prevent
// unmounting.
const stop = `#!/bin/sh
# Written by meros for a system without openrc. What is executable in
# /etc/local.d and ends in .stop is run first.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
for f in /etc/local.d/*.stop; do
	if test -x "$f"; then "$f"; fi
done
killall5 -TERM
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	killall5 -CONT || break # there is none left
	sleep 0.2
done
killall5 -KILL
swapoff -a
umount -a -r
`

// Setup makes a system bootable, by openrc or by busybox' init alone. For the kind
// "" it takes openrc if the system has it.
func Setup(tree, kind string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	openrc := has(root, "sbin/openrc")
	if kind == "openrc" && !openrc {
		return hint.Add(errors.New("setup is openrc, but the system does not have the package openrc"), "add openrc to `packages:` in the manifest")
	}
	err = writeNew(root, pressed, off, 0o755)
	if kind == "busybox" || !openrc {
		return errors.Join(err, write(root, "etc/inittab", inittab, 0o644), writeNew(root, "etc/init.d/rcS", start, 0o755), writeNew(root, "etc/init.d/rcK", stop, 0o755))
	}
	return errors.Join(err, writeNew(root, "etc/init.d/"+mountPoints, mountPointsService, 0o755), enable(root), configure(root))
}

// hostKeys is a setting of the service sshd, a line of shell. meros gives a machine
// its host key, and the service would take seconds to make keys of other kinds. A
// machine that runs without meros has no such key, and the service makes them.
const hostKeys = "if [ -e /etc/ssh/ssh_host_ed25519_key ]; then sshd_disable_keygen=yes; fi\n"

// enable adds the existing services to the runlevels of openrc.
func enable(root *os.Root) error {
	for level, services := range runlevels {
		for _, s := range services {
			if !has(root, "etc/init.d/"+s) {
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

// configure adds a login prompt on the console to inittab. If no service listens to
// the power button, it adds such a program too. It also sets which host keys sshd
// needs.
func configure(root *os.Root) error {
	if has(root, "etc/init.d/sshd") {
		if err := appendLines(root, "etc/conf.d/sshd", hostKeys); err != nil {
			return err
		}
	}
	lines := []string{serial}
	if !has(root, "etc/init.d/acpid") {
		lines = append(lines, button)
	}
	return appendLines(root, "etc/inittab", lines...)
}

// appendLines adds to a file those lines that it does not have yet.
func appendLines(root *os.Root, name string, lines ...string) error {
	b, err := root.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := string(b)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	for _, l := range lines {
		if !slices.Contains(strings.SplitAfter(text, "\n"), l) {
			text += l
		}
	}
	if text == string(b) {
		return nil
	}
	return write(root, name, text, 0o644)
}

// has reports whether a tree has a file.
func has(root *os.Root, name string) bool {
	_, err := root.Lstat(name)
	return err == nil
}

// writeNew writes a file unless it exists.
func writeNew(root *os.Root, name, text string, mode os.FileMode) error {
	if has(root, name) {
		return nil
	}
	return write(root, name, text, mode)
}

// write replaces a file in a tree that may be hostile.
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

// Trust configures the system's apk to use a mirror, and adds keys by the names of
// their files.
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
