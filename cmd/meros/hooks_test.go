// This file tests hooks: their order, their failures and the sandbox around
// them.

package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"meros/bench/lab"
)

func fileDigest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return fmt.Sprintf("%x", h.Sum(nil)), err
}

// TestHookFails checks that a failed hook stops the build. The error must have the
// hook's last lines and the path of the full log. The next build must reuse the
// stages before the hook.
func TestHookFails(t *testing.T) {
	p := shared(t, "failing", map[string]string{
		"m/hooks/0100-fine.chroot": "#!/bin/sh\necho all is fine\n",
		"m/hooks/0200-app.chroot":  "#!/bin/sh\necho the first line\nfor i in 1 2 3; do echo line $i; done\necho 'no such thing' >&2\nfalse && apt-get -y install hello\nexit 3\n",
		"m/hooks/0300-not.chroot":  "#!/bin/sh\necho must not run\n",
	})
	o := lab.Finish(t, exec.Command(lab.Program(t), "--root", p.Root, "--progress=plain", "build", "failing", "--rootfs-only"))
	fails(t, o, 1, "build failing/m hooks: hooks/0200-app.chroot: exit status 3\n", "hint: hooks have no network: list packages in `packages:`, which pins them", "  | no such thing", "  | line 3", "full log: ", "hint: `meros build -v --progress=plain failing m` shows it happen")
	if strings.Contains(o.Stderr, "must not run") {
		t.Error("the hook after the failed one ran")
	}
	log := regexp.MustCompile(`full log: (.*)`).FindStringSubmatch(o.Stderr)
	if log == nil {
		t.Fatal("the messages have no path of the log")
	}
	if b, err := os.ReadFile(log[1]); err != nil || !strings.Contains(string(b), "the first line") || !strings.Contains(string(b), "all is fine") {
		t.Errorf("the log is incomplete: %v\n%s", err, b)
	}
	leftovers(t, p)
	// The stages before the failed one stay in the cache.
	if _, err := os.Stat(p.Path("data/disks/failing-m.qcow2")); err == nil {
		t.Error("the failed build left a disk")
	}
	p.Write(t, "constellations/failing/m/hooks/0200-app.chroot", "#!/bin/sh\n")
	if ran := p.Must(t, "build", "failing", "--rootfs-only").Ran(); strings.Contains(strings.Join(ran, " "), "bootstrap") {
		t.Errorf("the second build ran %q", ran)
	}
}

// TestHookHangs checks that --timeout ends a hook that hangs.
func TestHookHangs(t *testing.T) {
	p := shared(t, "hanging", map[string]string{"m/hooks/01-wait.chroot": "#!/bin/sh\necho waiting\nsleep 86399\n"})
	start := time.Now()
	o := p.Run(t, "build", "hanging", "--rootfs-only", "--timeout=2s")
	fails(t, o, 1, "hooks/01-wait.chroot: timed out after 2s", "hint: a longer `--timeout` gives the hook more time")
	if d := time.Since(start); d > lab.Timeout(t, time.Minute) {
		t.Errorf("the build took %v", d)
	}
	if left := processes(t, "sleep 86399"); len(left) > 0 {
		t.Errorf("still running: %q", left)
	}
	leftovers(t, p)
}

// TestHookDaemon checks that a build does not wait for the daemons that a hook
// starts, and ends them with the hook.
func TestHookDaemon(t *testing.T) {
	p := shared(t, "daemon", map[string]string{"m/hooks/01-daemon.chroot": "#!/bin/sh\nsetsid sleep 86398 >/dev/null 2>&1 &\nsetsid sleep 86398 &\necho started > /etc/started\n"})
	start := time.Now()
	p.Must(t, "build", "daemon", "--rootfs-only")
	if d := time.Since(start); d > lab.Timeout(t, time.Minute) {
		t.Errorf("the build took %v", d)
	}
	if left := processes(t, "sleep 86398"); len(left) > 0 {
		t.Errorf("still running: %q", left)
	}
}

// escape is a hook that tries to escape from its sandbox.
const escape = `#!/bin/bash
report() { if "${@:2}" >/dev/null 2>&1; then echo "ESCAPE: $1"; fi; }
report "block device" mknod /tmp/vda b 254 0
report "device that works" bash -c 'mknod /tmp/null2 c 1 3 && echo x > /tmp/null2'
report "mount" mount -t tmpfs x /mnt
report "remount /proc/sys" mount -o remount,rw /proc/sys
report "sysctl" bash -c 'echo 1 > /proc/sys/kernel/panic'
report "sysrq" bash -c 'echo h > /proc/sysrq-trigger'
# These must fail whether or not the sandbox allows new user namespaces.
mkdir -p /tmp/x
report "sysctl by a fresh /proc" unshare -Urmpf sh -c 'mount -t proc proc /tmp/x && echo 1 > /tmp/x/sys/kernel/panic'
report "fresh sysfs" unshare -Urmn mount -t sysfs sysfs /tmp/x
report "uncover /proc/sys" unshare -Urm sh -c 'umount /proc/sys && echo 1 > /proc/sys/kernel/panic'
report "device in a nested namespace" unshare -Urm sh -c 'mknod /tmp/vdb b 254 0'
report "host name" hostname other
report "kernel log" dmesg
report "pid 1's root" test -e /proc/1/root/proc/1/root/HOSTMARK
report "other processes" bash -c '[ $(ls -d /proc/[0-9]* | wc -l) -gt 20 ]'
report "network" bash -c 'echo > /dev/tcp/127.0.0.1/MEROSPORT'
report "inputs" test -e /in
report "module" bash -c 'modprobe dummy || insmod x'
report "clock" date -s 2001-01-01
for p in / /.. /../../../../.. /proc/self/root/.. /proc/1/cwd /proc/1/root; do
	report "mark at $p" test -e "$p/HOSTMARK"
done
# chroot out of the root, the classic way
report "chroot" perl -e 'chroot "/tmp/x"; chdir ".." for 1..64; chroot "."; exit(! -e "HOSTMARK")'
kill -9 -1
echo survived
`

// TestHookStaysInside checks that a hook cannot escape from its sandbox or kill
// processes outside it.
func TestHookStaysInside(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	script := strings.NewReplacer("HOSTMARK", strings.TrimPrefix(mark, "/"), "MEROSPORT", "1").Replace(escape)
	p := shared(t, "escape", map[string]string{"m/hooks/01-escape.chroot": script, "m/hooks/02-after.chroot": "#!/bin/sh\necho done > /etc/done\n"})
	bystander := exec.Command("sleep", "86397")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { bystander.Process.Kill(); bystander.Wait() }()
	// kill -9 -1 must only end processes of the sandbox, such as the script.
	o := p.Run(t, "-v", "build", "escape", "--rootfs-only")
	if strings.Contains(o.Stderr, "ESCAPE") {
		t.Errorf("the hook escaped:\n%s", regexp.MustCompile(`ESCAPE: [^"]*`).FindAllString(o.Stderr, -1))
	}
	if len(processes(t, "sleep 86397")) == 0 {
		t.Error("the hook killed a process of the host")
	}
	if o.Exit != 0 && !strings.Contains(o.Stderr, "killed by SIGKILL") && !strings.Contains(o.Stderr, "survived") {
		t.Errorf("exit status %d\n%s", o.Exit, o.Stderr)
	}
}

// TestHookOrder checks that hooks run in the order of their names, those of
// common/ first, and leave nothing of themselves in the image.
func TestHookOrder(t *testing.T) {
	p := shared(t, "order", map[string]string{
		"common/hooks/0200-b.chroot": "#!/bin/sh\necho common-b >> /etc/order\n",
		"common/hooks/0100-a.chroot": "#!/bin/sh\necho common-a >> /etc/order\n",
		"m/hooks/0050-c.chroot":      "#!/bin/sh\necho machine-c >> /etc/order; ls / /run /tmp /usr/sbin > /etc/seen; test -d /proc/self && test -c /dev/null && touch /tmp/x\n",
		"m/hooks/readme.txt":         "not a hook",
	})
	p.Must(t, "build", "order", "--rootfs-only")
	tree := openImage(t, p, "order-m")
	if got := tree.read(t, "/etc/order"); got != "common-a\ncommon-b\nmachine-c\n" {
		t.Errorf("the hooks ran in the order %q", got)
	}
	for _, trace := range []string{"/run/meros", "/usr/sbin/policy-rc.d", "/tmp/x"} {
		if tree.exists(t, trace) {
			t.Errorf("%s is in the image", trace)
		}
	}
}

// TestHookDirectories checks that the image has the directories as the hooks left
// them, and that the user's home is created where the hooks moved /home.
func TestHookDirectories(t *testing.T) {
	p := shared(t, "dirs", map[string]string{
		"manifest.yml":              "virtual_machines:\n  m: {suite: bookworm, user: me}\n",
		"m/includes.chroot/etc/one": "1\n",
		"m/owners":                  "/etc root:mail 2775\n",
		"m/hooks/01-home.chroot":    "#!/bin/sh\nset -e\nchmod 0711 /home\nmkdir /big\nmv /home /big\nln -s big/home /home\nmkdir -p /etc/systemd\nchmod 0750 /etc/systemd\nrm /etc/skel/.bashrc\n",
	})
	p.Must(t, "build", "dirs", "--rootfs-only")
	tree := openImage(t, p, "dirs-m")
	for name, want := range map[string]string{
		"/home": `Fast link dest: "big/home"`, "/big/home": "Mode:  0711", "/big/home/me": "User:  1000", "/etc": "Mode:  02775", "/etc/systemd": "Mode:  0750", "/etc/hostname": "Size: 2",
	} {
		if got := tree.stat(t, name); !strings.Contains(got, want) {
			t.Errorf("%s: there is no %q in\n%s", name, want, got)
		}
	}
	if home := "/big/home/me/"; !tree.exists(t, home+".profile") || tree.exists(t, home+".bashrc") {
		t.Error("the home does not match the changed /etc/skel")
	}
	if got := tree.stat(t, "/etc"); !strings.Contains(got, "Group:     8") {
		t.Errorf("/etc is\n%s", got)
	}
}
