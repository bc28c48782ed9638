// This file runs hooks in the root file system of a guest and reports the result
// on a virtio port.

package initrd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// hooksDir is the directory in an initrd with the hooks to run and their
// configuration.
const hooksDir = "meros-hooks"

// Virtio ports of a guest that runs hooks.
const (
	HooksLogPort    = "meros.log"    // the hooks' output
	HooksResultPort = "meros.result" // a [HooksResult] as JSON
)

// Hooks are scripts that run in the root file system of a booted guest, in place
// of its init.
type Hooks struct {
	Names   []string      `json:"names"`   // file names, in order, without directories
	Shown   []string      `json:"shown"`   // the names for people
	Env     []string      `json:"env"`     // complete: nothing is inherited
	Timeout time.Duration `json:"timeout"` // for each hook; 0 means no limit
	Network bool          `json:"network"` // QEMU's user networking is available

	made string // the file that was created as a mount point, or ""
}

// HooksResult reports how the hooks ended.
type HooksResult struct {
	Ran   int    `json:"ran"`             // the number of hooks that succeeded
	Error string `json:"error,omitempty"` // the error of the hook that failed
	Hint  string `json:"hint,omitempty"`  // the next steps after Error, one a line
}

// WriteHooks creates file from the initrd base. A guest that boots with it runs
// the scripts in its root file system and powers off.
func WriteHooks(file, base string, h Hooks, scripts []File) error {
	config, err := json.Marshal(h)
	if err != nil {
		return err
	}
	files := []File{{Name: hooksDir + "/config", Mode: 0o600, Data: config}}
	for _, s := range scripts {
		s.Name = hooksDir + "/" + s.Name
		files = append(files, s)
	}
	return appendFiles(file, base, files)
}

// Around prepares a root for hooks and returns the function that restores it.
type Around func(root string) (after func() error, err error)

// runHooks runs the hooks of the initrd, reports the result and powers off. It
// returns false if the initrd has no hooks.
func runHooks(around Around) (bool, error) {
	var h Hooks
	if there, err := readConfig(hooksDir+"/config", &h); !there || err != nil {
		return there, err
	}
	log, err := openPort(HooksLogPort)
	if err != nil {
		return true, err
	}
	result, err := openPort(HooksResultPort)
	if err != nil {
		return true, err
	}
	signal.Notify(make(chan os.Signal, 1)) // a hook's signal must not end process 1: the kernel would panic
	ran, err := h.run(log, around)
	err = errors.Join(err, h.leaveRoot())
	r := HooksResult{Ran: ran}
	if err != nil {
		r.Error, r.Hint = err.Error(), hint.Of(err)
	}
	return true, end(result, r)
}

// readConfig decodes a file of the initrd into v, and reports whether the initrd
// has it.
func readConfig(name string, v any) (there bool, err error) {
	b, err := os.ReadFile("/" + name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	return true, err
}

// end reports the result and powers the machine off.
func end(port *os.File, result any) error {
	if err := json.NewEncoder(port).Encode(result); err != nil {
		return err
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// portWait is the timeout for a port to appear.
const portWait = 30 * time.Second

// openPort opens the virtio port whose name in sysfs is name.
func openPort(name string) (*os.File, error) {
	for end := time.Now().Add(portWait); ; time.Sleep(5 * time.Millisecond) {
		all, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, file := range all {
			if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) == name {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
			}
		}
		if time.Now().After(end) {
			return nil, hint.Add(fmt.Errorf("the virtio port %s did not appear", name), "use a kernel with virtio_console")
		}
	}
}

func (h *Hooks) run(log *os.File, around Around) (ran int, err error) {
	if err := enterRoot(); err != nil {
		return 0, err
	}
	if err := bringUp("lo"); err != nil {
		return 0, err
	}
	if h.Network {
		if err := userNetwork(); err != nil {
			return 0, fmt.Errorf("network: %w", err)
		}
		if err := h.showResolver(); err != nil {
			return 0, fmt.Errorf("resolv.conf: %w", err)
		}
	}
	after, err := around(newRoot)
	if err != nil {
		return 0, err
	}
	for i, name := range h.Names {
		fmt.Fprintf(log, "== %s\n", h.Shown[i])
		if err := h.hook(name, log); err != nil {
			return ran, errors.Join(fmt.Errorf("%s: %w", h.Shown[i], err), after())
		}
		ran++
	}
	return ran, after()
}

// enterRoot mounts the file systems that programs expect in a root.
func enterRoot() error {
	for _, m := range []struct{ kind, dir, options string }{
		{"proc", "proc", ""}, {"sysfs", "sys", ""}, {"devtmpfs", "dev", ""}, {"devpts", "dev/pts", "ptmxmode=0666"}, {"tmpfs", "dev/shm", "mode=1777"},
		{"tmpfs", "run", "mode=0755"}, {"tmpfs", "tmp", "mode=1777"},
	} {
		dir := filepath.Join(newRoot, m.dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, dir, m.kind, 0, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return nil
}

// resolvFile configures the resolver.
const resolvFile = "etc/resolv.conf"

// showResolver mounts a file over the system's resolv.conf, or over the target of
// that link, which may only exist in a running system. No link leads out of the
// root.
func (h *Hooks) showResolver() error {
	const file = "/resolv.conf"
	if err := os.WriteFile(file, []byte("nameserver "+userResolver+"\n"), 0o644); err != nil {
		return err
	}
	root, err := os.OpenRoot(newRoot)
	if err != nil {
		return err
	}
	defer root.Close()
	name := resolvFile
	if to, err := root.Readlink(name); err == nil {
		if !filepath.IsAbs(to) {
			to = filepath.Join("/", filepath.Dir(name), to)
		}
		name = strings.TrimPrefix(filepath.Clean(to), "/")
	}
	if _, err := root.Lstat(name); err != nil {
		h.made = filepath.Join(newRoot, name)
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Mount(file, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), "", unix.MS_BIND, "")
}

// Addresses of QEMU's user networking, qemu(1), -netdev user.
const (
	userAddress  = "10.0.2.15/24"
	userGateway  = "10.0.2.2"
	userResolver = "10.0.2.3"
)

// bringUp brings up a network device.
func bringUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("network device %s: %w", name, err)
	}
	return netlink.LinkSetUp(l)
}

// userNetwork sets up the virtio network device.
func userNetwork() error {
	devices, _ := filepath.Glob("/sys/class/net/*/device/driver")
	for _, d := range devices {
		if driver, err := os.Readlink(d); err != nil || filepath.Base(driver) != "virtio_net" {
			continue
		}
		l, err := netlink.LinkByName(strings.Split(d, "/")[4])
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(userAddress)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(userGateway)})
	}
	return hint.Add(errors.New("there is no virtio network device"), "use a kernel with virtio_net")
}

// hook runs one script in the root and kills every process that it left behind.
// The script's file is on a tmpfs, not on the disk.
func (h *Hooks) hook(name string, log *os.File) error {
	b, err := os.ReadFile("/" + hooksDir + "/" + name)
	if err != nil {
		return err
	}
	file := filepath.Join("/run/meros", name)
	if err := os.MkdirAll(filepath.Join(newRoot, "run/meros"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(newRoot+file, b, 0o755); err != nil {
		return err
	}
	ctx := context.Background()
	if h.Timeout > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, h.Timeout)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, file)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", h.Env, log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Chroot: newRoot, Setsid: true}
	err = cmd.Run()
	unix.Kill(-1, unix.SIGKILL) // every process but process 1, kill(2)
	for {
		if _, werr := unix.Wait4(-1, nil, 0, nil); werr != nil && werr != unix.EINTR {
			break // no child is left
		}
	}
	if ctx.Err() != nil {
		return hint.Add(fmt.Errorf("timed out after %v", h.Timeout), "a longer `--timeout` gives the hook more time")
	}
	return err
}

// leaveRoot completes the disk. It unmounts everything that hooks mounted, the
// latest first, and discards the blocks of deleted files.
func (h *Hooks) leaveRoot() error {
	unix.Sync()
	swaps, _ := os.ReadFile("/proc/swaps")
	for line := range strings.Lines(string(swaps)) {
		if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(f[0], "/") {
			name, err := unix.BytePtrFromString(filepath.Join(newRoot, f[0]))
			if err == nil {
				unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(name)), 0, 0)
			}
		}
	}
	for range 100 { // mounts over mounts
		mounts := mountsBelow(newRoot)
		if len(mounts) <= 1 {
			break
		}
		for _, dir := range slices.Backward(mounts[1:]) {
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	if h.made != "" {
		os.Remove(h.made)
	}
	detachLoops()
	trim(newRoot)
	for len(mountsBelow(newRoot)) > 0 {
		if err := unix.Unmount(newRoot, 0); err != nil {
			return hint.Add(fmt.Errorf("unmount the root: %w", err), "a hook left something that uses the disk: unmount or detach it at the hook's end")
		}
	}
	return nil
}

// mountsBelow returns the mount points at and below dir, oldest first,
// proc_pid_mountinfo(5).
func mountsBelow(dir string) []string {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	var all []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4])
		if at == dir || strings.HasPrefix(at, dir+"/") {
			all = append(all, at)
		}
	}
	return all
}

// detachLoops detaches the files of all loop devices, loop(4).
func detachLoops() {
	devices, _ := filepath.Glob("/dev/loop[0-9]*")
	for _, d := range devices {
		if f, err := os.OpenFile(d, os.O_RDONLY, 0); err == nil {
			unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
			f.Close()
		}
	}
}

// trim discards the free blocks of a file system, FITRIM of linux/fs.h. On error
// the image is only larger.
func trim(dir string) {
	const fitrim = 0xc0185879
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	whole := struct{ start, length, least uint64 }{0, 1<<64 - 1, 0}
	unix.Syscall(unix.SYS_IOCTL, f.Fd(), fitrim, uintptr(unsafe.Pointer(&whole)))
}
