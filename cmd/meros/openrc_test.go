// This file tests Alpine machines that openrc starts.

package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/bench/lab"
)

// openrcManifest is the end of a manifest with a machine that openrc starts.
const openrcManifest = `    packages: [openrc, openssh-server]
    user: admin
    disks:
      - {label: deep, size_gb: 64M, mount_point: /srv/data/deep/er}
      - {label: data, size_gb: 64M, mount_point: /srv/data}
      - {label: swap, size_gb: 64M, fs_type: swap}
    networks: [{label: rc-lan, bridge: lan, ip_addr: 10.23.0.11}]
bridges:
  lan: {subnet: 10.23.0.0/24, policy_type: host-access}
`

// openrcStarted lists the services that must run in the machine, sorted.
const openrcStarted = "acpid bootmisc devfs dmesg fsck hostname hwdrivers local localmount mdev modules mountpoints networking osclock seedrng sshd swap sysctl sysfs syslog"

// writer starts a process in a machine that writes to a file of /srv/data. The
// machine must be able to unmount the file system nevertheless.
const writer = "nohup setsid sh -c 'exec >/srv/data/log; while :; do date; sleep 0.1; done' </dev/null >/dev/null 2>&1 &"

// TestOpenRC builds and runs an Alpine machine with openrc, as an ordinary user.
// openrc must start every service, and must unmount the disks at the end.
func TestOpenRC(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-x86_64", "e2fsck", "qemu-img", "pasta", "dnsmasq")
	p := lab.Downloaded(t, "rc")
	m := lab.NewAlpineMirror(t, "x86_64")
	m.AddOpenRC(t, "testdata/openrc")
	m.AddBoot(t, p, "constellations/rc/meros.lock")
	p.Write(t, "constellations/rc/manifest.yml", alpineManifest(m, openrcManifest))
	meros := func(args ...string) *lab.Outcome {
		t.Helper()
		o := lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, args...)))
		if o.Exit != 0 {
			t.Fatalf("meros %q: exit status %d\n%s%s", args, o.Exit, o.Stdout, o.Stderr)
		}
		return o
	}
	in := func(line string) string {
		t.Helper()
		return meros("connect", "rc", "m", "--", line).Stdout
	}
	t.Cleanup(func() {
		lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, "shutdown", "rc", "--wait=0")))
		settled(t, p.Root) // the shared ssh connection ends shortly after the machine
		if t.Failed() {
			t.Logf("the console:\n%s", readFile(t, p.Path("data/state/rc/m/console.log")))
		}
	})
	meros("build", "rc")
	soundDisk(t, p.Path("data/disks/rc-m.qcow2"))
	o := meros("init", "rc")
	t.Logf("ready after %v", o.Wall)
	for _, c := range []struct{ line, want string }{
		{"cat /proc/1/comm /etc/hostname; grep -c ^admin: /etc/passwd", "init\nm\n1\n"},
		{"for n in $(seq 200); do test -e /run/openrc/started/local && break; sleep 0.2; done; echo $(ls /run/openrc/started | sort)", openrcStarted + "\n"},
		{"echo $(ls /run/openrc/failed; cd /run; ls -d keys-made hwclock-started 2>&1 | grep -v 'No such file')", "\n"},
		{"for d in /srv/data /srv/data/deep/er; do mountpoint $d; done", "/srv/data is a mountpoint\n/srv/data/deep/er is a mountpoint\n"},
		{"tail -n +2 /proc/swaps | wc -l", "1\n"},
		{"ip route | grep ^default", "default via 10.23.0.1 dev eth1 \n"},
	} {
		if got := in(c.line); got != c.want {
			t.Errorf("%s printed %q, want %q", c.line, got, c.want)
		}
	}
	onConsole(t, meros, "rc", "m", "m login:")
	in("echo kept > /root/mark; sync; " + writer)
	t.Logf("restarted in %v", meros("restart", "rc").Wall)
	if got := in("cat /root/mark; test -s /srv/data/log && echo written"); got != "kept\nwritten\n" {
		t.Errorf("after a restart the machine printed %q", got)
	}
	in(writer)
	o = meros("shutdown", "rc", "--wait=3m")
	if t.Logf("shut down in %v", o.Wall); !strings.Contains(o.Stderr, "shut down by its power button") {
		t.Errorf("shutdown printed\n%s", o.Stderr)
	}
	cleanDisk(t, p.Path("data/state/rc/m/disk-data.qcow2"))
	cleanDisk(t, p.Path("data/state/rc/m/disk-deep.qcow2"))
	leftovers(t, p)
}

// cleanDisk checks that the machine unmounted the file system of a further disk.
func cleanDisk(t *testing.T, file string) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if out, err := exec.Command("qemu-img", "convert", "-O", "raw", file, raw).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command("dumpe2fs", "-h", raw).CombinedOutput()
	if err != nil || strings.Contains(string(out), "needs_recovery") || !strings.Contains(string(out), "Filesystem state:         clean\n") {
		t.Errorf("%s was not unmounted, error %v:\n%s", filepath.Base(file), err, out)
	}
}
