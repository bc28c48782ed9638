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
	"meros/runner/host"
	"meros/runner/qemu"
	"meros/runner/sandbox"
	"meros/stages/pin"
)

// inside runs this program, with the arguments, where it may make sandboxes;
// what it says becomes the error.
func inside(e *env, args ...string) error {
	args = append(append([]string{}, e.globals...), args...)
	if os.Geteuid() != 0 {
		code, err := sandbox.InUserNamespace(e.ctx, args)
		if err == nil && code != 0 {
			err = errors.New("it fails in a user namespace, see above")
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
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// trySandbox does what every stage needs: namespaces, mounts, an overlay; and for
// programs of a foreign architecture, if one is named, the rule by which they run.
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

// cutHint separates the hints from the output of a failed meros.
func cutHint(output string) (text, hints string) {
	text, hints, _ = strings.Cut(output, "\nhint: ")
	return text, strings.ReplaceAll(hints, "\nhint: ", "; ")
}

func lookAtSandbox(e *env) []finding {
	f := finding{Name: "sandbox", Status: findingOK, Detail: "namespaces, mounts and overlayfs work"}
	if err := inside(e, "doctor", "--inside"); err != nil {
		f = finding{Name: "sandbox", Status: findingBroken, Detail: err.Error(), Without: "nothing can be built"}
		if f.Detail, f.Fix = cutHint(f.Detail); f.Fix == "" {
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
				f.Detail, f.Fix = cutHint(err.Error())
			}
		}
		all = append(all, f)
	}
	return all
}

// tool is a program that meros runs.
type tool struct {
	names    []string // the first that is there does
	without  string
	broken   bool              // nothing can be built without it
	packages map[string]string // by the families of distributions
}

// tools are those that dist-conf.sh installs, and what they are for.
var tools = []tool{
	{[]string{"mke2fs"}, "no image can be made", true, map[string]string{"debian": "e2fsprogs"}},
	{[]string{"debugfs"}, "no image can be made", true, map[string]string{"debian": "e2fsprogs", "alpine": "e2fsprogs-extra"}},
	{[]string{"qemu-img"}, "images of others cannot be used, machines not exported as raw, disks not made of an image", false, map[string]string{"debian": "qemu-utils", "fedora": "qemu-img", "alpine": "qemu-img", "arch": "qemu-img", "suse": "qemu-tools"}},
	{[]string{"qemu-storage-daemon"}, "images take longer: a whole copy is made for each", false, map[string]string{"debian": "qemu-system-common", "fedora": "qemu-img", "alpine": "qemu-storage-daemon", "arch": "qemu-base", "suse": "qemu-tools"}},
	{[]string{"xz"}, "packages of older releases cannot be unpacked", true, map[string]string{"debian": "xz-utils", "fedora": "xz", "alpine": "xz", "arch": "xz", "suse": "xz"}},
	{[]string{"qemu-system-" + arch.Host()}, "no machine boots", false, map[string]string{"debian": "qemu-system", "fedora": "qemu-kvm", "alpine": "qemu-system-" + arch.Host(), "arch": "qemu-base", "suse": "qemu"}},
	{[]string{"ssh"}, "connect, push and pull do not work", false, map[string]string{"debian": "openssh-client", "fedora": "openssh-clients", "arch": "openssh", "suse": "openssh-clients"}},
	{[]string{"apt-get"}, "machines of Debian and Ubuntu cannot be locked (a lock that is there can be built)", false, map[string]string{"debian": "apt"}},
	{[]string{"gpgv"}, "machines of Alpine cannot be locked", false, map[string]string{"debian": "gpgv", "fedora": "gnupg2", "alpine": "gnupg", "arch": "gnupg", "suse": "gpg2"}},
	{[]string{"pasta"}, "hooks have no network, and machines do not reach the world", false, map[string]string{"debian": "passt"}},
	{[]string{"dnsmasq"}, "machines with networks do not start", false, map[string]string{"debian": "dnsmasq-base", "fedora": "dnsmasq"}},
	{[]string{"/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/qemu/virtiofsd"}, "machines do not see directories of the host (mounts)", false, map[string]string{"debian": "virtiofsd (of Debian 12: qemu-system-common)"}},
	{[]string{"sfdisk"}, "images of others cannot be used (--use)", false, map[string]string{"debian": "fdisk", "fedora": "util-linux", "alpine": "sfdisk", "arch": "util-linux", "suse": "util-linux"}},
	{[]string{"fuse2fs"}, "images of others cannot be used (--use)", false, map[string]string{"debian": "fuse2fs", "alpine": "e2fsprogs-extra", "arch": "fuse2fs"}},
	{[]string{"git"}, "kernels cannot be taken from a repository", false, map[string]string{"debian": "git"}},
	{[]string{"waypipe"}, "programs of machines have no windows here (run)", false, map[string]string{"debian": "waypipe"}},
	{[]string{"e2fsck"}, "images of others cannot be used (--use)", false, map[string]string{"debian": "e2fsprogs"}},
	{[]string{"mksquashfs"}, "machines cannot be exported as squashfs", false, map[string]string{"debian": "squashfs-tools"}},
	{[]string{"mkfs.erofs"}, "machines cannot be exported as erofs", false, map[string]string{"debian": "erofs-utils"}},
	{[]string{"mkfs.xfs"}, "disks cannot be of xfs", false, map[string]string{"debian": "xfsprogs"}},
	{[]string{"mkfs.btrfs"}, "disks cannot be of btrfs", false, map[string]string{"debian": "btrfs-progs"}},
	{[]string{"mkfs.vfat"}, "disks cannot be of vfat", false, map[string]string{"debian": "dosfstools"}},
	{[]string{"vncviewer"}, "the screens of machines are not shown (view)", false, map[string]string{"debian": "tigervnc-viewer", "fedora": "tigervnc", "arch": "tigervnc", "suse": "tigervnc"}},
	{[]string{"/usr/share/keyrings/debian-archive-keyring.gpg"}, "machines of Debian cannot be locked (but with keys: of your own)", false, map[string]string{"debian": "debian-archive-keyring"}},
}

func lookAtTools(e *env) []finding {
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

// findProgram is where a program, or another file if its whole path is given,
// is, or "". Those of administrators are not on every user's PATH.
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

func lookAtDevices(e *env) []finding {
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
		{"/dev/fuse", "images take longer, and those of others cannot be used (--use)", "modprobe fuse; chmod 0666 /dev/fuse"},
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

// Room that a first build of a constellation takes.
const (
	wantedBytes  = 5 << 30
	wantedInodes = 200_000
	wantedMemory = 1 << 30
)

func lookAtRoom(e *env) []finding {
	disk := finding{Name: "disk", Status: findingOK}
	var st unix.Statfs_t
	if err := unix.Statfs(e.root, &st); err != nil {
		disk.Status, disk.Detail = findingLimited, err.Error()
	} else {
		free := int64(st.Bavail) * int64(st.Bsize) // int32 on some architectures
		disk.Detail = fmt.Sprintf("%s free for %s", bytesText(free), e.dataDir())
		if free < wantedBytes {
			disk.Status, disk.Without, disk.Fix = findingLimited, "a first build of a few machines takes "+bytesText(wantedBytes), "make room, or use another file system (--root DIR)"
		}
		if st.Files > 0 && st.Ffree < wantedInodes {
			disk.Status, disk.Without = findingLimited, fmt.Sprintf("only %d inodes are free: unpacked layers take tens of thousands each", st.Ffree)
		}
	}
	memory := finding{Name: "memory", Status: findingOK, Detail: bytesText(host.MemoryAvailable()) + " available"}
	if n := host.MemoryAvailable(); n > 0 && n < wantedMemory {
		memory.Status, memory.Without = findingLimited, "a bootstrap takes up to "+bytesText(wantedMemory)
	}
	clock := finding{Name: "clock", Status: findingOK, Detail: time.Now().Format(time.RFC3339)}
	if self, err := os.Stat("/proc/self/exe"); err == nil && time.Until(self.ModTime()) > 24*time.Hour {
		clock.Status, clock.Without, clock.Fix = findingLimited, "this program is of "+self.ModTime().Format(time.DateOnly)+": signatures of archives may be refused", "set the clock (timedatectl set-ntp true)"
	}
	return []finding{disk, memory, clock}
}

// mirrorWait is how long a mirror may take to answer.
const mirrorWait = 5 * time.Second

func lookAtMirror(e *env) []finding {
	f := finding{Name: "mirror", Status: findingLimited, Without: "nothing can be downloaded (what is in the cache can be built)"}
	archives, err := debian.Archives("debian", "/", "bookworm", arch.Host(), "")
	if err != nil || len(archives) == 0 {
		f.Detail = fmt.Sprint("no mirror of Debian is known: ", err)
		return []finding{f}
	}
	url := strings.TrimRight(archives[0].URL, "/") + "/dists/bookworm/Release"
	ctx, cancel := context.WithTimeout(e.ctx, mirrorWait)
	defer cancel()
	if err := answers(ctx, url); err != nil {
		f.Detail, f.Fix = err.Error(), "see the network, its proxy (http_proxy, or apt's), or name a mirror in the manifest"
		return []finding{f}
	}
	return []finding{{Name: "mirror", Status: findingOK, Detail: archives[0].URL + " answers"}}
}

// maxRelease limits the index that a mirror sends, bytes.
const maxRelease = 1 << 20

// answers reads a file of a mirror, to find out whether that works.
func answers(ctx context.Context, url string) error {
	r, err := new(pin.Servers).Open(ctx, url)
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(r, maxRelease+1))
	if err == nil && n > maxRelease {
		err = fmt.Errorf("is larger than %d bytes", maxRelease)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	return nil
}
