// This file builds the root file system of a sandbox out of mounts.

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Paths of the old and the new root while both are mounted. They are below a tmpfs
// that no other process sees.
const (
	stage   = "/tmp"
	oldRoot = "/old"
	newRoot = "/new"
)

// hostDirs lists the paths of the host that a sandbox without a root shows
// read-only. They are programs, libraries, and the few files of /etc that these
// need. It
// omits files such as mke2fs.conf, which would change the output of programs.
var hostDirs = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store",
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates",
	"/etc/pki",
}

// networkFiles lists the files of the host that configure the use of its network.
var networkFiles = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"}

// devices lists the device nodes of every sandbox, mem(4) and tty(4).
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// readOnlyProc and hiddenProc list the files of /proc that change or reveal the
// whole machine, like the default Linux files of the OCI runtime specification.
var (
	readOnlyProc = []string{"bus", "fs", "irq", "sys", "sysrq-trigger"}
	hiddenProc   = []string{"kcore", "keys", "latency_stats", "timer_list", "sched_debug", "acpi", "scsi", "asound"}
)

// makeRoot builds the new root and makes it the only one.
func (c *Config) makeRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("stage", stage, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	for _, d := range []string{oldRoot, newRoot} {
		if err := os.Mkdir(stage+d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.PivotRoot(stage, stage+oldRoot); err != nil {
		return fmt.Errorf("pivot to the temporary root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := c.mountRoot(); err != nil {
		return err
	}
	if err := unix.Unmount(oldRoot, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	// If both arguments of pivot_root(2) are the same directory, the old root is
	// stacked on the new one and can be unmounted there.
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to the new root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the temporary root: %w", err)
	}
	return unix.Chdir("/")
}

// mountRoot mounts everything that [Config] describes at newRoot.
func (c *Config) mountRoot() error {
	flags := uintptr(0)
	if !c.Trusted {
		flags = unix.MS_NODEV
	}
	if c.Root != "" {
		if err := bind(oldRoot+c.Root, newRoot, true, flags); err != nil {
			return fmt.Errorf("mount the root %s: %w", c.Root, err)
		}
	} else if err := unix.Mount("root", newRoot, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	rootFD, err := unix.Open(newRoot, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(rootFD)
	r := &root{fd: rootFD}
	if c.Root == "" {
		shown := hostDirs
		if c.Network == "host" {
			shown = append(slices.Clone(hostDirs), networkFiles...)
		}
		if err := r.host(shown); err != nil {
			return err
		}
	}
	if err := r.proc(c.Trusted); err != nil {
		return err
	}
	if err := r.dev(); err != nil {
		return err
	}
	if err := r.tmpfs("/tmp", 0, "1777"); err != nil {
		return err
	}
	for _, m := range c.Mounts {
		if err := r.mount(m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	return nil
}

// root is a directory that acts as / for all paths below it.
type root struct{ fd int }

// host shows paths of the host. If /bin is a link into /usr, it remains a link.
func (r *root) host(paths []string) error {
	for _, d := range paths {
		fi, err := os.Lstat(oldRoot + d)
		if err != nil {
			continue
		}
		if fi.Mode()&os.ModeSymlink != 0 && !strings.HasPrefix(d, "/etc/") {
			to, err := os.Readlink(oldRoot + d)
			if err != nil {
				return err
			}
			if err := os.Symlink(to, newRoot+d); err != nil {
				return err
			}
			continue
		}
		src, err := hostPath(d)
		if err != nil {
			continue // a dangling link, as /etc/resolv.conf may be
		}
		if err := r.mount(Mount{Source: src, Target: d}); err != nil {
			return fmt.Errorf("show the host's %s: %w", d, err)
		}
	}
	return nil
}

// hostPath follows the links of a path of the old root.
func hostPath(p string) (string, error) {
	fd, err := unix.Open(oldRoot, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	t, err := openIn(fd, p)
	if err != nil {
		return "", err
	}
	defer unix.Close(t)
	full, err := os.Readlink(fdPath(t))
	return strings.TrimPrefix(full, oldRoot), err
}

func (r *root) proc(trusted bool) error {
	if err := r.fs("proc", "/proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if trusted {
		return nil // a nested sandbox can only mount /proc if all of it is visible
	}
	for _, p := range readOnlyProc {
		err := r.at("/proc/"+p, false, func(target string) error {
			return bind(target, target, false, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("make /proc/%s read-only: %w", p, err)
		}
	}
	for _, p := range hiddenProc {
		err := r.at("/proc/"+p, false, func(target string) error {
			if fi, err := os.Stat(target); err == nil && fi.IsDir() {
				return unix.Mount("hidden", target, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=0,mode=0555")
			}
			return bind(oldRoot+"/dev/null", target, false, unix.MS_NOSUID|unix.MS_NOEXEC)
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("hide /proc/%s: %w", p, err)
		}
	}
	return nil
}

// dev makes a small /dev. The nodes are the host's own: on a read-only mount
// they can be written to, but neither their mode nor their owner.
func (r *root) dev() error {
	if err := r.fs("tmpfs", "/dev", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755"); err != nil {
		return err
	}
	for _, d := range devices {
		if err := r.mount(Mount{Source: "/dev/" + d, Target: "/dev/" + d, Device: true}); err != nil {
			return fmt.Errorf("show /dev/%s: %w", d, err)
		}
	}
	if err := r.fs("devpts", "/dev/pts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return err
	}
	if err := r.tmpfs("/dev/shm", 0, "1777"); err != nil {
		return err
	}
	for name, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		err := r.at("/dev", true, func(dev string) error { return os.Symlink(to, dev+"/"+name) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *root) tmpfs(target string, size int64, mode string) error {
	data := "mode=" + mode
	if size > 0 {
		data += fmt.Sprintf(",size=%d", size)
	}
	return r.fs("tmpfs", target, unix.MS_NOSUID|unix.MS_NODEV, data)
}

func (r *root) fs(kind, target string, flags uintptr, data string) error {
	err := r.at(target, true, func(t string) error { return unix.Mount(kind, t, kind, flags, data) })
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, target, err)
	}
	return nil
}

func (r *root) mount(m Mount) error {
	if m.Source == "" {
		return r.tmpfs(m.Target, m.Size, "0755")
	}
	fi, err := os.Lstat(oldRoot + m.Source)
	if err != nil {
		return err
	}
	flags := uintptr(unix.MS_NOSUID)
	if !m.Device {
		flags |= unix.MS_NODEV
	}
	if err := r.make(m.Target, fi.IsDir()); err != nil {
		return err
	}
	return r.at(m.Target, false, func(t string) error { return bind(oldRoot+m.Source, t, m.Writable, flags) })
}

// at resolves target within r and calls f with a path to it that no rename can
// redirect. If mkdir is set, at creates target as a directory.
func (r *root) at(target string, mkdir bool, f func(path string) error) error {
	if mkdir {
		if err := r.make(target, true); err != nil {
			return err
		}
	}
	fd, err := r.open(target)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return f(fdPath(fd))
}

func (r *root) open(target string) (int, error) { return openIn(r.fd, target) }

// openIn opens a path as if dir were the root. If a rename or mount anywhere on the
// host races with a "..", the kernel returns EAGAIN and openIn tries again,
// openat2(2).
func openIn(dir int, target string) (fd int, err error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	for range 1000 {
		if fd, err = unix.Openat2(dir, strings.TrimPrefix(target, "/"), how); err != unix.EAGAIN {
			break
		}
	}
	return fd, err
}

// make creates target, a directory or an empty file, and its parents.
func (r *root) make(target string, dir bool) error {
	target = path.Clean("/" + target)
	fd, err := r.open(target)
	if err == nil {
		return unix.Close(fd)
	}
	if err != unix.ENOENT {
		return err
	}
	parent := path.Dir(target)
	if parent != "/" {
		if err := r.make(parent, true); err != nil {
			return err
		}
	}
	fd = r.fd
	if parent != "/" {
		p, err := r.open(parent)
		if err != nil {
			return err
		}
		defer unix.Close(p)
		fd = p
	}
	if dir {
		return unix.Mkdirat(fd, path.Base(target), 0o755)
	}
	return unix.Mknodat(fd, path.Base(target), unix.S_IFREG|0o644, 0)
}

// fdPath returns a path of an open file. It uses /proc of the old root, because
// the new one may be missing or hidden.
func fdPath(fd int) string { return filepath.Join(oldRoot, "proc/self/fd", fmt.Sprint(fd)) }

// bind mounts source, with all mounts below it, at target. It sets the attributes
// before any process can see the mount, mount_setattr(2).
func bind(source, target string, writable bool, flags uintptr) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{}
	if !writable {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	for flag, a := range map[uintptr]uint64{unix.MS_NOSUID: unix.MOUNT_ATTR_NOSUID, unix.MS_NODEV: unix.MOUNT_ATTR_NODEV, unix.MS_NOEXEC: unix.MOUNT_ATTR_NOEXEC} {
		if flags&flag != 0 {
			attr.Attr_set |= a
		}
	}
	if attr.Attr_set != 0 {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			return err
		}
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
}
