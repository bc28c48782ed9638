// This file is process 1 of a guest: it mounts the root file system and becomes
// its init.

package initrd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

const newRoot = "/root"

// rootWait is the timeout for the root device to appear.
const rootWait = 60 * time.Second

// Main is the first process of a guest. It loads the kernel modules, mounts the
// root= of the kernel's command line, copies the machine's own files into it and
// becomes its init. With an initrd of [WriteHooks] or [WriteSystem] it does that
// work instead. On failure it prints the error and its hint on the console and
// powers the machine off. It never returns.
func Main(in Inside) {
	err := boot(in)
	fmt.Printf("meros: cannot boot: %v\n", err)
	for line := range strings.Lines(hint.Of(err)) {
		fmt.Printf("hint: %s\n", strings.TrimSpace(line))
	}
	unix.Sync()
	time.Sleep(200 * time.Millisecond) // until the serial line has sent the text
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func boot(in Inside) error {
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	args := parseCmdline(string(cmdline))
	loadModules()
	if there, err := runSystem(in); there {
		return err
	}
	if err := mountRoot(args["root"], args["rootfstype"], args["rootflags"]); err != nil {
		return err
	}
	if there, err := runHooks(in.Around); there {
		return err
	}
	if err := copyRun("/"+runDir, newRoot); err != nil {
		return fmt.Errorf("copy the machine's own files: %w", err)
	}
	return switchRoot(args["init"])
}

// parseCmdline reads "name=value" words. The last value of a name counts.
func parseCmdline(s string) map[string]string {
	args := map[string]string{"root": "/dev/vda1", "rootfstype": "ext4", "init": "/sbin/init"}
	for f := range strings.FieldsSeq(s) {
		if k, v, ok := strings.Cut(f, "="); ok {
			args[k] = v
		}
	}
	return args
}

// loadModules loads the modules of the initrd. It only prints errors: a needed
// device that is missing later fails the boot.
func loadModules() {
	order, err := os.ReadFile("/" + moduleDir + "/order")
	if err != nil {
		return
	}
	for name := range strings.FieldsSeq(string(order)) {
		f, err := os.Open(filepath.Join("/", moduleDir, name))
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
			f.Close()
		}
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			fmt.Printf("meros: module %s: %v\n", name, err)
		}
	}
}

func mountRoot(device, kind, flags string) error {
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	end := time.Now().Add(rootWait)
	for {
		if _, err := os.Stat(device); err == nil {
			break
		}
		if time.Now().After(end) {
			disks, _ := filepath.Glob("/sys/class/block/*")
			return fmt.Errorf("root device %s did not appear within %v, found only %v", device, rootWait, disks)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := unix.Mount(device, newRoot, kind, 0, flags); err != nil {
		return fmt.Errorf("mount %s (%s): %w", device, kind, err)
	}
	return nil
}

// copyRun copies a tree with modes and owners. Existing directories stay
// unchanged. No link of the guest is followed out of its root.
func copyRun(from, to string) error {
	if _, err := os.Lstat(from); err != nil {
		return nil
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, file)
		if err != nil || name == "." {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if d.IsDir() {
			err := root.Mkdir(name, fi.Mode().Perm())
			if errors.Is(err, fs.ErrExist) {
				return nil
			}
			return errors.Join(err, root.Lchown(name, int(st.Uid), int(st.Gid)))
		}
		return copyRunFile(root, name, file, fi.Mode().Perm(), st)
	})
}

func copyRunFile(root *os.Root, name, file string, mode fs.FileMode, st *syscall.Stat_t) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := out.Chmod(mode); err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return err
}

// switchRoot makes newRoot the root, frees the memory of the initrd and becomes
// the root's init, like switch_root(8).
func switchRoot(init string) error {
	for _, d := range []string{"/dev", "/proc", "/sys"} {
		to := newRoot + d
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(d, to, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", d, err)
		}
	}
	for _, d := range []string{"/" + moduleDir, "/" + runDir, "/init", "/lib", "/lib64"} {
		os.RemoveAll(d)
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	// The console is a log file: TERM=dumb prevents colours and animations.
	err := unix.Exec(init, []string{init}, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb", "HOME=/"})
	return hint.Add(fmt.Errorf("start %s: %w", init, err), "add an init system to the packages, such as systemd-sysv")
}
