// This file measures how long kernels take to compile and to boot.

package bench

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"meros/bench/lab"
)

const kernelMachine = "virtual_machines:\n  m: {suite: bookworm, memory: 512M, cpus: 2, packages: %s, kernel: {source: \"debian:linux-source-6.1\"%s}}\n"

// BenchmarkKernel compiles the kernel of a machine in an empty project, then
// with one more option, then with nothing changed. The peer is make alone on the
// same tree, with the same compiler and the same number of jobs.
func BenchmarkKernel(b *testing.B) {
	lab.NeedRoot(b)
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		p, compiled := lab.DownloadedKernel(b, "k")
		p.Write(b, "constellations/k/manifest.yml", fmt.Sprintf(kernelMachine, lab.Packages, ""))
		full, _ := p.Must(b, "kernel-build", "k").Stage("kernel-compile")
		plain := makeAlone(b, p, compiled)
		p.Write(b, "constellations/k/ram.config", "CONFIG_BLK_DEV_RAM=y\n")
		p.Write(b, "constellations/k/manifest.yml", fmt.Sprintf(kernelMachine, lab.Packages, ", config: ram.config"))
		option, _ := p.Must(b, "kernel-build", "k").Stage("kernel-compile")
		noop := p.Must(b, "kernel-build", "k").Wall
		s.add("s/kernel", full)
		s.add("s/make", plain.Seconds())
		s.add("x/make", full/plain.Seconds())
		s.add("s/option", option)
		s.add("option/full", option/full)
		s.add("ms/noop", noop.Seconds()*1000)
	}
}

// makeAlone compiles the kernel of p with make, in a chroot with the seed's
// toolchain, and returns the time it took.
func makeAlone(b *testing.B, p, seed *lab.Project) time.Duration {
	b.Helper()
	one := func(pattern string) string {
		b.Helper()
		found, err := filepath.Glob(seed.Path("data/cache/trees/*/*/*/" + pattern))
		if err != nil || len(found) == 0 {
			b.Fatalf("no %s in the seed: %v", pattern, err)
		}
		return found[0][:len(found[0])-len(pattern)-1]
	}
	config := output(b, p, "kernel-config")
	dir := b.TempDir()
	for _, d := range []string{"root", "upper", "scratch", "obj"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "obj/.config"), config, 0o644); err != nil {
		b.Fatal(err)
	}
	script := `set -e
mount --make-rprivate /
mount -t overlay -o "lowerdir=$2:$1,upperdir=upper,workdir=scratch" o root
mount -t proc proc root/proc; mount --rbind /dev root/dev
mkdir -p root/src root/obj; mount --bind "$3" root/src; mount --bind obj root/obj
exec chroot root make -s -C /src O=/obj "-j$4" bzImage`
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh", one("etc/debian_version"), one("usr/bin/x86_64-linux-gnu-gcc-12"), one("init/main.c"), fmt.Sprint(runtime.NumCPU()))
	cmd.Dir = dir
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return time.Since(start)
}

// output returns the output of a stage that has one output and ran once.
func output(b *testing.B, p *lab.Project, stage string) []byte {
	b.Helper()
	entries, err := filepath.Glob(p.Path("data/cache/actions/*/*"))
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(e)
		if err != nil || !strings.Contains(string(text), `"stage":"`+stage+`"`) {
			continue
		}
		_, sum, _ := strings.Cut(string(text), `"digest":"sha256:`)
		content, err := os.ReadFile(p.Path(filepath.Join("data/cache/cas", sum[:2], sum[:64])))
		if err != nil {
			b.Fatal(err)
		}
		return content
	}
	b.Fatalf("stage %s did not run", stage)
	return nil
}

// BenchmarkBoot measures the time from the start of QEMU until the kernel has
// mounted its root file system. It compares a kernel built by meros with
// Debian's own kernel and initrd.
func BenchmarkBoot(b *testing.B) {
	lab.NeedRoot(b)
	lab.Need(b, "qemu-system-x86_64")
	s := make(samples)
	defer s.report(b)
	p, compiled := lab.DownloadedKernel(b, "k")
	// The scripts of the kernel package make the stock initrd, in an image.
	p.Write(b, "constellations/stock/manifest.yml", "virtual_machines:\n  m: {suite: bookworm, packages: [linux-image-cloud-amd64, initramfs-tools, systemd-sysv]}\n")
	p.Must(b, "build", "stock", "--rootfs-only")
	compiled.Must(b, "kernel-build", "seed", "--output", p.Path("data/disks/bzImage"))
	disk := p.Path("data/disks/stock-m.qcow2")
	stock, err := filepath.Glob(p.Path("data/cache/trees/*/*/*/boot/initrd.img-*"))
	if err != nil || len(stock) != 1 {
		b.Fatalf("the stock initrd is %q, %v", stock, err)
	}
	kernel := strings.Replace(stock[0], "initrd.img-", "vmlinuz-", 1)
	for b.Loop() {
		ours := bootTime(b, disk, p.Path("data/disks/bzImage"), "")
		debian := bootTime(b, disk, kernel, stock[0])
		s.add("s/ours", ours.Seconds())
		s.add("s/debian", debian.Seconds())
		s.add("x/debian", debian.Seconds()/ours.Seconds())
	}
}

// bootTime boots until the console reports that the root is mounted, and returns
// the time that takes.
func bootTime(b *testing.B, disk, kernel, initrd string) time.Duration {
	b.Helper()
	args := []string{
		"-nodefaults", "-no-reboot", "-display", "none", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512", "-smp", "1", // with two processors, QEMU before 8.1 may hang one
		"-kernel", kernel, "-append", "console=ttyS0 root=/dev/vda1 ro", "-serial", "stdio", "-drive", "file=" + disk + ",if=virtio,snapshot=on",
	}
	if initrd != "" {
		args = append(args, "-initrd", initrd)
	}
	cmd := exec.Command("qemu-system-x86_64", args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var last string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if last = lines.Text(); strings.Contains(last, "EXT4-fs (vda1): mounted filesystem") {
			return time.Since(start)
		}
	}
	b.Fatalf("the root was not mounted; the last line was %q", last)
	return 0
}
