// This file tests faults around running machines, and that machines leave
// nothing behind.

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"meros/bench/lab"
	"meros/runner/vm"
)

// roundsEnv names the environment variable that sets how often TestRounds starts
// and stops a machine.
const roundsEnv = "MEROS_TEST_ROUNDS"

// tinyLive returns a project with tiny machines. m has further disks and a port of
// the host, n uses a disk of m, and s has no sshd.
func tinyLive(t *testing.T, port int) *lab.Project {
	t.Helper()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-x86_64", "ssh")
	p := lab.Built(t, "live")
	shared := p.Path("shared.qcow2")
	p.Write(t, "constellations/live/manifest.yml", fmt.Sprintf(`packages: %s
bridges: {empty: {subnet: 10.41.0.0/24}}
virtual_machines:
  m:
    memory: 256M
    cpus: 1
    ports: ["127.0.0.1:%d->22"]
    qemu_args: "-drive file=%[3]s,if=virtio"
    disks: [{label: data, size_gb: 64M, mount_point: /srv/data}, {label: pages, size_gb: 32M, fs_type: swap}]
  n: {memory: 256M, cpus: 1, qemu_args: "-drive file=%[3]s,if=virtio"}
  s: {memory: 256M, cpus: 1}
`, lab.Packages, port, shared))
	p.Tiny(t, "live", "common")
	p.Write(t, "constellations/live/s/includes.chroot/etc/no-sshd", "")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", shared, "16M").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() {
		p.Run(t, "shutdown", "live", "--wait=0")
		settled(t, p.Root) // the shared ssh connection ends shortly after the machine
	})
	return p
}

// TestLiveFaults checks that init reports faults around running machines, and that
// the next init repairs them.
func TestLiveFaults(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := tinyLive(t, l.Addr().(*net.TCPAddr).Port)
	in := func(line string) string { return p.Must(t, "connect", "live", "m", "--", line).Stdout }

	// Another process uses the port of the host.
	fails(t, p.Run(t, "init", "live", "m"), 1, l.Addr().String(), "address already in use", fmt.Sprintf("process %d", os.Getpid()))
	settled(t, p.Root)
	l.Close()

	// Two runs of init at the same time start the machine once.
	var outcomes [2]*lab.Outcome
	var wg sync.WaitGroup
	for i := range outcomes {
		wg.Go(func() { outcomes[i] = p.Run(t, "init", "live", "m") })
	}
	wg.Wait()
	started := 0
	for _, o := range outcomes {
		if o.Exit != 0 {
			t.Errorf("exit status %d\n%s", o.Exit, o.Stderr)
		}
		started += strings.Count(o.Stderr, "live/m started")
	}
	if started != 1 {
		t.Errorf("the machine started %d times", started)
	}

	t.Run("disk in use", func(t *testing.T) {
		fails(t, p.Run(t, "init", "live", "n"), 1, "live/n", "shared.qcow2", "lock")
	})
	t.Run("never ready", func(t *testing.T) {
		fails(t, p.Run(t, "init", "live", "s", "--wait=3s"), 1, "live/s", "ssh does not answer after 3s", "\"hint\":\"the machine still runs", "if openssh-server is not among its packages, add it")
		onConsole(t, func(args ...string) *lab.Outcome { return p.Must(t, args...) }, "live", "s", "tiny init is up")
		fails(t, p.Run(t, "init", "live", "s", "--wait=3s"), 1, "live/s runs already", "ssh does not answer after 3s", "tiny init is up")
		if s := states(t, func(args ...string) *lab.Outcome { return p.Must(t, "info", "live", "--json") })["s"]; s.State != vm.Starting {
			t.Errorf("the machine is %+v", s)
		}
		p.Must(t, "shutdown", "live", "s", "--wait=0")
	})
	t.Run("disks", func(t *testing.T) {
		if got := in("df --output=source,target /srv/data | tail -1; grep -c /dev/ /proc/swaps; echo kept > /srv/data/x; echo lost > /root/x; sync"); !strings.Contains(got, "/srv/data\n1\n") {
			t.Errorf("the machine has the disks %q", got)
		}
		// The machine does not react to the power button and has no poweroff.
		if o := p.Must(t, "shutdown", "live", "m", "--wait=500ms"); !strings.Contains(o.Stderr, "did not react; its QEMU was asked to quit") {
			t.Errorf("shutdown printed\n%s", o.Stderr)
		}
		p.Must(t, "init", "live", "m")
		if got := in("cat /srv/data/x; cat /root/x 2>/dev/null || echo gone"); got != "kept\ngone\n" {
			t.Errorf("after a second start the files have %q", got)
		}
		p.Must(t, "snapshot", "save", "live", "one", "m")
		in("echo later > /srv/data/x; sync")
		p.Must(t, "snapshot", "restore", "live", "one", "m")
		if got := in("cat /srv/data/x"); got != "kept\n" {
			t.Errorf("after the snapshot is restored the file has %q", got)
		}
		p.Must(t, "reset", "live", "m")
		if got := in("cat /srv/data/x 2>/dev/null || echo gone"); got != "gone\n" {
			t.Errorf("after a reset the file has %q", got)
		}
	})
}

// TestHostDiskFull checks that a guest pauses if the host's disk is full, and
// continues when there is free space.
func TestHostDiskFull(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	p := tinyLive(t, 18099)
	p.Must(t, "build", "live", "m")
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `
mount --make-rprivate / && mkdir -p data/state && mount -t tmpfs -o size=40M state data/state || exit 1
meros() { "$MEROS" --progress=plain "$@"; }
meros init live m || exit 1
meros connect live m -- 'yes | head -c 60M > /root/big; sync; echo written' > written &
n=0
until meros info live --json | grep -q '"state": "paused"'; do n=$((n+1)); test $n -lt 60 || exit 1; sleep 1; done
meros info live
mount -o remount,size=400M data/state
meros init live m
wait
cat written
meros shutdown live m --wait=0`)
	cmd.Dir = p.Root
	cmd.Env = append(os.Environ(), "MEROS="+lab.Program(t))
	o := lab.Finish(t, cmd)
	if o.Exit != 0 || !strings.Contains(o.Stdout, "the host has no free space for its writes") || !strings.Contains(o.Stdout, "`meros init live m` resumes it") || !strings.Contains(o.Stdout, "written\n") || !strings.Contains(o.Stderr, "was paused, and runs again") {
		t.Errorf("exit status %d\n%s\n%s", o.Exit, o.Stdout, o.Stderr)
	}
}

// TestRounds starts and stops a machine several times and checks that nothing
// accumulates.
func TestRounds(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	rounds := 2
	if n, err := strconv.Atoi(os.Getenv(roundsEnv)); err == nil {
		rounds = n
	}
	p := tinyLive(t, 18098)
	p.Must(t, "build", "live", "m")
	var first string
	for i := range rounds {
		p.Must(t, "init", "live", "m")
		p.Must(t, "shutdown", "live", "--wait=0")
		settled(t, p.Root)
		if now := traces(t, p); i == 0 {
			first = now
		} else if now != first {
			t.Fatalf("after round %d there is\n%s\nafter the first there was\n%s", i+1, now, first)
		}
	}
}

// traces lists the files and counts the mounts that a constellation could leave
// behind. A mount would keep a namespace alive.
func traces(t *testing.T, p *lab.Project) string {
	t.Helper()
	var b strings.Builder
	for _, dir := range []string{p.Path("data/state"), p.Path("data/ssh"), p.Path("data/cache/build")} {
		filepath.WalkDir(dir, func(file string, _ os.DirEntry, err error) error {
			fmt.Fprintln(&b, file, err)
			return nil
		})
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, strings.Count(string(mounts), p.Root))
	return b.String()
}
