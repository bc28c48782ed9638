// This file checks the host for the verb doctor: the sandbox, programs, devices, free space
// and a mirror. It changes nothing.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner"
	"meros/runner/arch"
	"meros/runner/debian"
	"meros/runner/hint"
	"meros/runner/host"
	"meros/runner/qemu"
	"meros/runner/sandbox"
	"meros/stages/pin"
)

// inside runs this program where it can make sandboxes. Its output becomes the error, and
// the hints in it the hints.
func inside(e *env, args ...string) error {
	args = slices.Concat(e.globals, []string{"--progress=plain"}, args)
	if os.Geteuid() != 0 {
		code, err := sandbox.InUserNamespace(e.ctx, args)
		if err == nil && code != 0 {
			err = errors.New("it fails in a user namespace, see the messages above")
		}
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(e.ctx, self, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		text, hints := said.String(), ""
		if i := strings.Index(text, "\nhint: "); i >= 0 {
			text, hints = text[:i], strings.ReplaceAll(text[i+1:], "hint: ", "")
		}
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(text))
		if hints != "" {
			err = hint.Add(err, "%s", strings.TrimSpace(hints))
		}
		return err
	}
	return nil
}

// trySandbox tries what every stage needs: namespaces, mounts and an overlay. If foreign is
// an architecture, it also tries to run programs of it.
func trySandbox(ctx context.Context, foreign string) error {
	const script = "mkdir /tmp/a /tmp/b /tmp/c && mount -t overlay overlay -o userxattr,lowerdir=/tmp/a:/tmp/b /tmp/c"
	var said bytes.Buffer
	err := runner.Run(ctx, runner.Spec{
		Argv: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}, Trusted: true, Foreign: foreign,
	}, runner.Stdio{Stdout: &said, Stderr: &said})
	if err != nil && said.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return err
}

// fixOf returns the hints of an error in one line.
func fixOf(err error) string { return strings.ReplaceAll(hint.Of(err), "\n", "; ") }

// checkSandbox tries a sandbox, and programs of another architecture.
func checkSandbox(e *env) []finding {
	f := finding{Name: "sandbox", Status: findingOK, Detail: "namespaces, mounts and overlayfs work"}
	if err := inside(e, "doctor", "--inside"); err != nil {
		f = finding{Name: "sandbox", Status: findingBroken, Detail: err.Error(), Without: "nothing can be built"}
		if f.Fix = fixOf(err); f.Fix == "" {
			f.Fix = "modprobe overlay; for an ordinary user also sysctl -w user.max_user_namespaces=15000, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0"
		}
	}
	all := []finding{f}
	if _, err := runner.Emulator("aarch64"); arch.Host() != "aarch64" {
		f := finding{Name: "other architectures", Status: findingOK, Detail: "programs of aarch64 can be run"}
		if err != nil {
			f.Status, f.Detail, f.Without = findingLimited, "qemu-aarch64-static is not installed", "machines of other architectures cannot be built"
			f.Fix = install(distribution(), map[string]string{"debian": "qemu-user-static", "fedora": "qemu-user-static", "alpine": "qemu-aarch64", "arch": "qemu-user-static", "suse": "qemu-linux-user"})
		}
		if f.Status == findingOK && all[0].Status == findingOK {
			if err := inside(e, "doctor", "--inside", "--foreign=aarch64"); err != nil {
				f.Status, f.Without = findingLimited, "machines of other architectures cannot be built"
				f.Detail, f.Fix = err.Error(), fixOf(err)
			}
		}
		all = append(all, f)
	}
	return all
}

// tool is a program that meros runs.
type tool struct {
	names    []string // one of them suffices
	without  string
	broken   bool              // nothing can be built without it
	packages map[string]string // by family of distribution
}

// tools are the programs that dist-conf.sh installs.
var tools = []tool{
	{[]string{"mke2fs"}, "no image can be made", true, map[string]string{"debian": "e2fsprogs"}},
	{[]string{"debugfs"}, "no image can be made", true, map[string]string{"debian": "e2fsprogs", "alpine": "e2fsprogs-extra"}},
	{[]string{"qemu-img"}, "existing images cannot be used (--use), machines not exported as raw, disks not made from an image", false, map[string]string{"debian": "qemu-utils", "fedora": "qemu-img", "alpine": "qemu-img", "arch": "qemu-img", "suse": "qemu-tools"}},
	{[]string{"qemu-storage-daemon"}, "building images takes longer, because each one is copied", false, map[string]string{"debian": "qemu-system-common", "fedora": "qemu-img", "alpine": "qemu-storage-daemon", "arch": "qemu-base", "suse": "qemu-tools"}},
	{[]string{"xz"}, "packages of older releases cannot be unpacked", true, map[string]string{"debian": "xz-utils", "fedora": "xz", "alpine": "xz", "arch": "xz", "suse": "xz"}},
	{[]string{"qemu-system-" + arch.Host()}, "no machine boots", false, map[string]string{"debian": "qemu-system", "fedora": "qemu-kvm", "alpine": "qemu-system-" + arch.Host(), "arch": "qemu-base", "suse": "qemu"}},
	{[]string{"ssh"}, "connect, push and pull do not work", false, map[string]string{"debian": "openssh-client", "fedora": "openssh-clients", "arch": "openssh", "suse": "openssh-clients"}},
	{[]string{"apt-get"}, "machines of Debian and Ubuntu cannot be locked (but an existing lock can be built)", false, map[string]string{"debian": "apt"}},
	{[]string{"gpgv"}, "machines of Alpine cannot be locked", false, map[string]string{"debian": "gpgv", "fedora": "gnupg2", "alpine": "gnupg", "arch": "gnupg", "suse": "gpg2"}},
	{[]string{"pasta"}, "hooks have no network, and machines cannot reach the Internet", false, map[string]string{"debian": "passt"}},
	{[]string{"dnsmasq"}, "machines with networks do not start", false, map[string]string{"debian": "dnsmasq-base", "fedora": "dnsmasq"}},
	{[]string{"/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/qemu/virtiofsd"}, "machines do not see directories of the host (mounts)", false, map[string]string{"debian": "virtiofsd (of Debian 12: qemu-system-common)"}},
	{[]string{"sfdisk"}, "existing images cannot be used (--use)", false, map[string]string{"debian": "fdisk", "fedora": "util-linux", "alpine": "sfdisk", "arch": "util-linux", "suse": "util-linux"}},
	{[]string{"fuse2fs"}, "existing images cannot be used (--use)", false, map[string]string{"debian": "fuse2fs", "alpine": "e2fsprogs-extra", "arch": "fuse2fs"}},
	{[]string{"git"}, "kernels cannot be taken from a repository", false, map[string]string{"debian": "git"}},
	{[]string{"waypipe"}, "programs of machines cannot show windows here (run)", false, map[string]string{"debian": "waypipe"}},
	{[]string{"e2fsck"}, "existing images cannot be used (--use)", false, map[string]string{"debian": "e2fsprogs"}},
	{[]string{"mksquashfs"}, "machines cannot be exported as squashfs", false, map[string]string{"debian": "squashfs-tools"}},
	{[]string{"mkfs.erofs"}, "machines cannot be exported as erofs", false, map[string]string{"debian": "erofs-utils"}},
	{[]string{"mkfs.xfs"}, "disks cannot have xfs", false, map[string]string{"debian": "xfsprogs"}},
	{[]string{"mkfs.btrfs"}, "disks cannot have btrfs", false, map[string]string{"debian": "btrfs-progs"}},
	{[]string{"mkfs.vfat"}, "disks cannot have vfat", false, map[string]string{"debian": "dosfstools"}},
	{[]string{"vncviewer"}, "the screens of machines cannot be shown (view)", false, map[string]string{"debian": "tigervnc-viewer", "fedora": "tigervnc", "arch": "tigervnc", "suse": "tigervnc"}},
	{[]string{"/usr/share/keyrings/debian-archive-keyring.gpg"}, "machines of Debian cannot be locked (except with keys: in the manifest)", false, map[string]string{"debian": "debian-archive-keyring"}},
}

// checkTools looks for the programs.
func checkTools(e *env) []finding {
	family := distribution()
	var all []finding
	for _, t := range tools {
		f := finding{Name: filepath.Base(t.names[0]), Status: findingOK}
		if i := slices.IndexFunc(t.names, func(n string) bool { f.Detail = findProgram(n); return f.Detail != "" }); i < 0 {
			f.Status, f.Detail, f.Without, f.Fix = findingLimited, "is not installed", t.without, install(family, t.packages)
			if t.broken {
				f.Status = findingBroken
			}
		} else if old := qemu.TooOld(e.ctx, t.names[i]); strings.HasPrefix(f.Name, "qemu-system-") && old != "" {
			f.Status, f.Detail, f.Without = findingLimited, old, t.without
		}
		all = append(all, f)
	}
	return all
}

// findProgram returns the path of a program, or of a file if name is absolute, or "". It
// also looks where programs of administrators are, which not every PATH contains.
func findProgram(name string) string {
	if _, err := os.Stat(name); filepath.IsAbs(name) && err == nil {
		return name
	}
	if file, err := exec.LookPath(name); err == nil {
		return file
	}
	for _, d := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if file, err := exec.LookPath(filepath.Join(d, name)); err == nil && !filepath.IsAbs(name) {
			return file
		}
	}
	return ""
}

// checkDevices opens the devices that machines and hooks need.
func checkDevices(e *env) []finding {
	var all []finding
	kvm := finding{Name: "kvm", Status: findingOK}
	args, why, err := qemu.HostAccel(e.ctx, "auto", arch.Host(), 2)
	kvm.Detail = why
	if err != nil || !slices.Contains(args, "kvm") && !strings.Contains(strings.Join(args, " "), "kvm") {
		kvm.Status, kvm.Without = findingLimited, "machines are emulated, ten times slower"
		kvm.Fix = "enable virtualization in the firmware, modprobe kvm; for an ordinary user: usermod -aG kvm NAME"
	}
	all = append(all, kvm)
	for _, d := range []struct{ file, without, fix string }{
		{"/dev/net/tun", "machines with networks do not start, and hooks have no network", "modprobe tun; chmod 0666 /dev/net/tun"},
		{"/dev/fuse", "building images takes longer, and existing images cannot be used (--use)", "modprobe fuse; chmod 0666 /dev/fuse"},
	} {
		f := finding{Name: filepath.Base(d.file), Status: findingOK, Detail: d.file + " can be opened"}
		if fd, err := unix.Open(d.file, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			f.Status, f.Detail, f.Without, f.Fix = findingLimited, fmt.Sprintf("open %s: %v", d.file, err), d.without, d.fix
		} else {
			unix.Close(fd)
		}
		all = append(all, f)
	}
	return all
}

// The needs of the first build of a constellation: bytes of disk, inodes, bytes of memory.
const (
	wantedBytes  = 5 << 30
	wantedInodes = 200_000
	wantedMemory = 1 << 30
)

// checkSpace checks free space, memory and the clock.
func checkSpace(e *env) []finding {
	disk := finding{Name: "disk", Status: findingOK}
	var st unix.Statfs_t
	if err := unix.Statfs(e.root, &st); err != nil {
		disk.Status, disk.Detail = findingLimited, err.Error()
	} else {
		free := int64(st.Bavail) * int64(st.Bsize) // int32 on some architectures
		disk.Detail = fmt.Sprintf("%s free for %s", bytesText(free), e.dataDir())
		if free < wantedBytes {
			disk.Status, disk.Without, disk.Fix = findingLimited, "a first build of a few machines needs "+bytesText(wantedBytes), "free some space, or use another file system (--root DIR)"
		}
		if st.Files > 0 && st.Ffree < wantedInodes {
			disk.Status, disk.Without = findingLimited, fmt.Sprintf("only %d inodes are free, and an unpacked layer needs tens of thousands", st.Ffree)
		}
	}
	memory := finding{Name: "memory", Status: findingOK, Detail: bytesText(host.MemoryAvailable()) + " available"}
	if n := host.MemoryAvailable(); n > 0 && n < wantedMemory {
		memory.Status, memory.Without = findingLimited, "a bootstrap needs up to "+bytesText(wantedMemory)
	}
	clock := finding{Name: "clock", Status: findingOK, Detail: time.Now().Format(time.RFC3339)}
	if self, err := os.Stat("/proc/self/exe"); err == nil && time.Until(self.ModTime()) > 24*time.Hour {
		clock.Status, clock.Without, clock.Fix = findingLimited, "this program is newer, of "+self.ModTime().Format(time.DateOnly)+": signatures of archives may be refused", "set the clock (timedatectl set-ntp true)"
	}
	return []finding{disk, memory, clock}
}

// mirrorTimeout is how long a mirror may take to answer.
const mirrorTimeout = 5 * time.Second

// checkMirror reads a file of a mirror of Debian.
func checkMirror(e *env) []finding {
	f := finding{Name: "mirror", Status: findingLimited, Without: "nothing can be downloaded (but what is in the cache can be built)"}
	archives, err := debian.Archives("debian", "/", "bookworm", arch.Host(), "")
	if err != nil || len(archives) == 0 {
		f.Detail = fmt.Sprint("no known mirror of Debian: ", err)
		return []finding{f}
	}
	url := strings.TrimRight(archives[0].URL, "/") + "/dists/bookworm/Release"
	ctx, cancel := context.WithTimeout(e.ctx, mirrorTimeout)
	defer cancel()
	if err := answers(ctx, url); err != nil {
		f.Detail, f.Fix = err.Error(), "check the network and its proxy (http_proxy, or apt's), or name a mirror in the manifest"
		return []finding{f}
	}
	return []finding{{Name: "mirror", Status: findingOK, Detail: archives[0].URL + " answers"}}
}

// maxRelease limits the index that a mirror sends, in bytes.
const maxRelease = 1 << 20

// answers reads a file of a mirror.
func answers(ctx context.Context, url string) error {
	r, err := new(pin.Servers).Open(ctx, url)
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(r, maxRelease+1))
	if err == nil && n > maxRelease {
		err = fmt.Errorf("the file is larger than %d bytes", maxRelease)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	return nil
}
