// This file tests hooks that run in the booted machine.

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"meros/bench/lab"
)

// TestHooksInVM checks that hooks in the booted machine see its kernel and its
// disk, and that the image has their changes.
func TestHooksInVM(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-x86_64", "e2fsck")
	p := lab.Downloaded(t, "inside")
	manifest := strings.Replace(bootableManifest, "packages:", "hooks: {in: vm}, user: worker, packages:", 1)
	p.Write(t, "constellations/inside/manifest.yml", manifest)
	p.Write(t, "constellations/inside/common/hooks/01-see.chroot", `#!/bin/sh
set -e
{ uname -r; cat /proc/1/comm; ls /dev/vda1; id -u; hostname; cat /etc/hostname; date +%Y; } >/etc/seen
ls /run/meros
(sleep 1000 &)
printf 'a\r\n'; seq 1 5000
ip -o link | grep -c LOOPBACK,UP >>/etc/seen
mount --bind / /mnt
touch /tmp/not-in-the-image
kill -HUP 1
`)
	p.Write(t, "constellations/inside/m/hooks/02-change.chroot", "#!/bin/sh\nset -e\nmount -t tmpfs x /mnt\nmkdir /opt/made\nchown worker /opt/made\nrm -r /etc/skel\npgrep sleep && exit 9\ntest -x /usr/sbin/policy-rc.d\n")
	o := lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, "-v", "build", "inside", "--rootfs-only", "--locked")))
	if o.Exit != 0 || !strings.Contains(o.Stderr, `"line":"000-01-see.chroot"`) {
		t.Fatalf("exit status %d\n%s", o.Exit, o.Stderr)
	}
	t.Logf("built with hooks in the machine in %v", o.Wall)
	tree := filesOf(t, soundDisk(t, p.Path("data/disks/inside-m.qcow2")), 1<<20)
	seen := strings.Fields(readFile(t, filepath.Join(tree, "etc/seen")))
	if len(seen) != 8 || seen[1] != "init" || seen[2] != "/dev/vda1" || seen[3] != "0" || seen[5] != "m" || seen[6] < "2026" {
		t.Errorf("the hook saw %q", seen)
	}
	for name, there := range map[string]bool{"opt/made": true, "etc/skel": false, "usr/sbin/policy-rc.d": false, "run/meros": false, "tmp/not-in-the-image": false} {
		if _, err := exec.Command("test", "-e", filepath.Join(tree, name)).Output(); (err == nil) != there {
			t.Errorf("%s exists: %v, want %v", name, err == nil, there)
		}
	}
	if out, err := exec.Command("stat", "-c", "%u", filepath.Join(tree, "opt/made")).Output(); err != nil || strings.TrimSpace(string(out)) == "0" {
		t.Errorf("the owner of /opt/made is %s, error %v", out, err)
	}
	if o := p.Must(t, "plan", "inside", "--rootfs-only"); !strings.Contains(o.Stdout, " 0 to run") {
		t.Errorf("the plan after the build is %s", o.Stdout)
	}

	t.Run("failures", func(t *testing.T) {
		p.Write(t, "constellations/inside/m/hooks/02-change.chroot", "#!/bin/sh\necho before the end\nexit 7\n")
		fails(t, p.Run(t, "build", "inside", "--rootfs-only"), 1, "before the end", "hooks in the machine: hooks/02-change.chroot: exit status 7")
		// The timeout applies to each hook, so the slow first hook has to go.
		p.Write(t, "constellations/inside/common/hooks/01-see.chroot", "#!/bin/sh\n")
		p.Write(t, "constellations/inside/m/hooks/02-change.chroot", "#!/bin/sh\nsleep 1000\n")
		fails(t, p.Run(t, "build", "inside", "--rootfs-only", "--timeout=10s"), 1, "hooks/02-change.chroot: timed out after 10s", "hint: a longer `--timeout` gives the hook more time")
		p.Write(t, "constellations/inside/m/hooks/02-change.chroot", "#!/bin/sh\necho o >/proc/sysrq-trigger; sleep 100\n")
		fails(t, p.Run(t, "build", "inside", "--rootfs-only"), 1, "the machine ended before its hooks did")
		p.Write(t, "constellations/inside/m/hooks/02-change.chroot", "#!/bin/sh\necho 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 100\n")
		fails(t, p.Run(t, "build", "inside", "--rootfs-only"), 1, "the machine ended before its hooks did")
		leftovers(t, p)
		fails(t, p.Run(t, "export", "inside", "m", "--format=tar"), exitUsage, "which leaves only an image of its disk", "hint: choose the format qcow2 or raw")
	})

	t.Run("network", func(t *testing.T) {
		lab.Need(t, "pasta")
		p.Write(t, "constellations/inside/m/includes.chroot/etc/motd", "hello\n")
		p.Write(t, "constellations/inside/manifest.yml", strings.Replace(manifest, "in: vm", "in: vm, network: true", 1))
		p.Write(t, "constellations/inside/m/hooks/02-change.chroot", "#!/bin/sh\nip route | grep default >/etc/route\ncat /etc/resolv.conf >>/etc/route\ndate +%s >/etc/now\n")
		if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", p.Path("constellations/inside/m/includes.chroot/etc/resolv.conf")); err != nil {
			t.Fatal(err)
		}
		if o := p.Run(t, "build", "inside", "--rootfs-only"); o.Exit != 0 {
			t.Fatalf("exit status %d\n%s", o.Exit, o.Stderr)
		}
		tree := filesOf(t, soundDisk(t, p.Path("data/disks/inside-m.qcow2")), 1<<20)
		if route := readFile(t, filepath.Join(tree, "etc/route")); !strings.Contains(route, "default via 10.0.2.2") || !strings.Contains(route, "nameserver 10.0.2.3") {
			t.Errorf("the route and the name server are %q", route)
		}
		if now, err := strconv.ParseInt(strings.TrimSpace(readFile(t, filepath.Join(tree, "etc/now"))), 10, 64); err != nil || time.Since(time.Unix(now, 0)) > time.Hour {
			t.Errorf("the machine's clock was at %v, error %v", time.Unix(now, 0), err)
		}
		if to, err := os.Readlink(filepath.Join(tree, "etc/resolv.conf")); err != nil || !strings.HasSuffix(to, "stub-resolv.conf") {
			t.Errorf("resolv.conf points to %q, error %v", to, err)
		}
	})
}
