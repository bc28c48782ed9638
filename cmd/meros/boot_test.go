// This file tests the life of one machine, from its first start to its
// shutdown, and the boot check.

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"meros/bench/lab"
	"meros/runner/vm"
)

// bootableManifest has a machine that boots and accepts logins.
const bootableManifest = "virtual_machines:\n  m: {suite: bookworm, memory: 512M, cpus: 1, packages: " + lab.Packages + "}\n"

// status returns the status of the only machine of a constellation.
func status(t *testing.T, p *lab.Project, constellation string) vm.Status {
	t.Helper()
	var all []vm.Status
	if o := p.Must(t, "info", constellation, "--json"); json.Unmarshal([]byte(o.Stdout), &all) != nil || len(all) != 1 {
		t.Fatalf("info --json printed %q", o.Stdout)
	}
	return all[0]
}

// expectState checks the state that info reports for the only machine. A machine
// that has just become ready is still starting services, so it may answer later
// than info waits.
func expectState(t *testing.T, p *lab.Project, want vm.State) vm.Status {
	t.Helper()
	s := status(t, p, "live")
	for end := time.Now().Add(guestTimeout(t)); want == vm.Ready && s.State == vm.Unreachable && time.Now().Before(end); {
		s = status(t, p, "live")
	}
	if s.State != want {
		t.Fatalf("the machine is %s, want %s: %+v", s.State, want, s)
	}
	return s
}

// waitStopped waits until the machine no longer runs.
func waitStopped(t *testing.T, p *lab.Project) {
	t.Helper()
	for end := time.Now().Add(guestTimeout(t)); status(t, p, "live").PID != 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the machine still runs; its console:\n%s", p.Run(t, "logs", "live", "m").Stdout)
		}
	}
}

// guestTimeout returns how long a test waits for a guest. It allows for emulation
// and for other work on the host.
func guestTimeout(t *testing.T) time.Duration {
	t.Helper()
	return lab.Timeout(t, 5*time.Minute)
}

// onConsole waits until a machine has written something to its console.
func onConsole(t *testing.T, meros func(...string) *lab.Outcome, constellation, machine, want string) {
	t.Helper()
	for end := time.Now().Add(guestTimeout(t)); ; time.Sleep(100 * time.Millisecond) {
		log := meros("logs", constellation, machine).Stdout
		if strings.Contains(log, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%q is not on the console of %s/%s:\n%s", want, constellation, machine, log)
		}
	}
}

// TestMachineLife follows a machine from its first start to its last shutdown.
func TestMachineLife(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-x86_64", "ssh")
	p := lab.Built(t, "live")
	p.Write(t, "constellations/live/manifest.yml", bootableManifest)
	p.Must(t, "build", "live")
	image := disk(t, p, "live-m")
	// Clean up even if the test fails.
	t.Cleanup(func() {
		if s := status(t, p, "live"); s.PID != 0 {
			p.Run(t, "shutdown", "live", "--wait=1s")
		}
		settled(t, p.Root) // the shared ssh connection ends shortly after the machine
	})
	fails(t, p.Run(t, "connect", "live", "m"), 1, "live/m is not running", "\"hint\":\"`meros init live m`")
	expectState(t, p, vm.Stopped)

	if st := endedInit(t, p, syscall.SIGINT); st.ExitCode() != exitInterrupted {
		t.Errorf("interrupted init: %v", st)
	}
	expectState(t, p, vm.Stopped)
	endedInit(t, p, syscall.SIGKILL)
	pid := expectState(t, p, vm.Starting).PID
	if o := p.Must(t, "init", "live"); !strings.Contains(o.Stderr, "runs already") || !strings.Contains(o.Stderr, "ready after") {
		t.Errorf("the second init printed\n%s", o.Stderr)
	}
	s := expectState(t, p, vm.Ready)
	if s.PID != pid {
		t.Errorf("the process id was %d and is now %d", pid, s.PID)
	}
	t.Run("connect", func(t *testing.T) { checkConnect(t, p) })
	t.Run("secrets", func(t *testing.T) { checkSecrets(t, p) })

	t.Run("manifest lost", func(t *testing.T) {
		p.Write(t, "constellations/live/manifest.yml", "virtual_machines: {m: {memroy: 1G}}\n")
		fails(t, p.Run(t, "build", "live"), exitUsage, "memroy")
		for _, args := range [][]string{{"info"}, {"info", "live"}} {
			if o := p.Must(t, args...); !strings.Contains(o.Stdout, string(vm.Ready)) || !strings.Contains(o.Stderr, "cannot read the manifest, listing machines from their run records") {
				t.Errorf("meros %q printed\n%s%s", args, o.Stdout, o.Stderr)
			}
		}
		away := p.Path("elsewhere")
		if err := os.Rename(p.Path("constellations/live"), away); err != nil {
			t.Fatal(err)
		}
		if o := p.Must(t, "connect", "live", "m", "--", "hostname"); o.Stdout != "m\n" {
			t.Errorf("the machine printed %q", o.Stdout)
		}
		if o := p.Must(t, "info"); !strings.Contains(o.Stdout, "live/m") {
			t.Errorf("info printed\n%s", o.Stdout)
		}
		if err := os.Rename(away, p.Path("constellations/live")); err != nil {
			t.Fatal(err)
		}
		p.Write(t, "constellations/live/manifest.yml", bootableManifest)
	})

	t.Run("guest powers off", func(t *testing.T) {
		p.Must(t, "connect", "live", "m", "--", "echo kept > /root/mark && sync")
		p.Run(t, "connect", "live", "m", "--", "systemctl poweroff")
		waitStopped(t, p)
		if s := expectState(t, p, vm.Ended); len(s.Tail) == 0 {
			t.Error("the status has no last lines of the console")
		}
	})
	t.Run("killed", func(t *testing.T) {
		const changed = "constellations/live/m/includes.chroot/etc/changed"
		p.Write(t, changed, "")
		fails(t, p.Run(t, "init", "live"), 1, "its disk belongs to an older image", "\"hint\":\"`meros shutdown live m`")
		os.RemoveAll(p.Path("constellations/live/m"))
		if o := p.Must(t, "init", "live"); !strings.Contains(o.Stderr, "starts with the disk of its last run") {
			t.Errorf("init printed\n%s", o.Stderr)
		}
		if o := p.Run(t, "connect", "live", "m", "--", "cat /root/mark"); o.Stdout != "kept\n" {
			t.Errorf("the file from before the power-off has %q: %s", o.Stdout, o.Stderr)
		}
		syscall.Kill(expectState(t, p, vm.Ready).PID, syscall.SIGKILL)
		waitStopped(t, p)
		expectState(t, p, vm.Crashed)
		fails(t, p.Run(t, "connect", "live", "m"), 1, "is not running")
		// shutdown must not signal the old process id, which another process may have now.
		p.Must(t, "shutdown", "live")
		expectState(t, p, vm.Stopped)
	})
	t.Run("shutdown", func(t *testing.T) {
		p.Must(t, "init", "live")
		if o := p.Run(t, "connect", "live", "m", "--", "cat /root/mark"); o.Exit != 1 || !strings.Contains(o.Stderr, "No such file") {
			t.Error("the file from before the shutdown still exists")
		}
		// The service that handles the power button may start after sshd.
		p.Run(t, "connect", "live", "m", "--", "systemctl is-system-running --wait")
		if o := p.Must(t, "shutdown", "live"); !strings.Contains(o.Stderr, "live/m shut down by its power button") {
			t.Errorf("shutdown printed\n%s", o.Stderr)
		}
		if o := p.Must(t, "shutdown", "live"); !strings.Contains(o.Stderr, "was not running") {
			t.Errorf("the second shutdown printed\n%s", o.Stderr)
		}
		left, _ := filepath.Glob(p.Path("data/state/live/m/*"))
		if len(left) != 3 {
			t.Errorf("the state has %q after the shutdown, want only the lock and the two logs", left)
		}
	})
	if got := disk(t, p, "live-m"); got != image {
		t.Error("the image has changed")
	}
}

// endedInit runs init and sends it a signal as soon as the machine has started.
func endedInit(t *testing.T, p *lab.Project, sig syscall.Signal) *os.ProcessState {
	t.Helper()
	cmd := p.Command(t, "init", "live")
	started := make(chan struct{})
	w := &lineWatcher{}
	w.see = func(line string) {
		if strings.Contains(line, "live/m started") {
			close(started)
		}
	}
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-started:
	case <-time.After(guestTimeout(t)):
		t.Error("the machine did not start")
	}
	cmd.Process.Signal(sig)
	cmd.Wait()
	return cmd.ProcessState
}

// checkConnect checks that commands in the guest behave like local commands.
func checkConnect(t *testing.T, p *lab.Project) {
	for _, test := range []struct {
		name, in, out, err string
		argv               []string
		exit               int
	}{
		{"status", "", "", "", []string{"--", "exit 37"}, 37},
		{"streams", "in\x00put\n", "in\x00put\n", "err\n", []string{"--", "cat; echo err >&2"}, 0},
		{"words", "", "[a  b][$HOME][;'\"\n]", "", []string{"--", "printf", "[%s]", "a  b", "$HOME", ";'\"\n"}, 0},
		{"flags of the command", "", "-n\n", "", []string{"--", "echo", "-e", "-n"}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := p.Command(t, append([]string{"connect", "live", "m"}, test.argv...)...)
			cmd.Stdin = strings.NewReader(test.in)
			o := lab.Finish(t, cmd)
			if test.name == "flags of the command" {
				test.out = o.Stdout // dash and bash differ; the command only has to run
			}
			if o.Exit != test.exit || o.Stdout != test.out || o.Stderr != test.err {
				t.Errorf("exit status %d, stdout %q, stderr %q", o.Exit, o.Stdout, o.Stderr)
			}
		})
	}
}

// checkSecrets checks that keys are in private files and not in the cache or the
// images.
func checkSecrets(t *testing.T, p *lab.Project) {
	private := []string{"data/ssh/id_ed25519", "data/ssh/live/m/ssh_host_ed25519_key", "data/state/live/m/initrd", "data/state/live/m/disk.qcow2"}
	for _, f := range private {
		if fi, err := os.Stat(p.Path(f)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want 0600", f, fi, err)
		}
	}
	id, err := os.ReadFile(p.Path("data/ssh/live/m/machine-id"))
	if err != nil {
		t.Fatal(err)
	}
	o := p.Must(t, "connect", "live", "m", "--", "cat /etc/machine-id; hostname; stat -c %a /etc/ssh/ssh_host_ed25519_key; systemctl is-system-running --wait; uname -s")
	lines := strings.Split(strings.TrimSpace(o.Stdout), "\n")
	if want := []string{strings.TrimSpace(string(id)), "m", "600", "running", "Linux"}; !slices.Equal(lines, want) {
		t.Errorf("the guest printed %q, want %q", lines, want)
	}
	public, err := exec.Command("ssh-keygen", "-y", "-f", p.Path("data/ssh/id_ed25519")).Output()
	if err != nil {
		t.Fatal(err)
	}
	key := strings.Fields(string(public))[1]
	host, err := os.ReadFile(p.Path("data/ssh/live/m/ssh_host_ed25519_key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{key, strings.TrimSpace(string(id)), strings.Split(string(host), "\n")[2]} {
		// grep searches gigabytes faster than Go code.
		out, err := exec.Command("grep", "-rlF", "--", word, p.Path("data/cache"), p.Path("data/disks")).CombinedOutput()
		if err == nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("a secret is in %s (%v)", out, err)
		}
	}
}

// TestBootCheck checks that a build stores the verdict of a boot check and reuses
// it, like any other artifact.
func TestBootCheck(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-x86_64")
	p := lab.Built(t, "check", "dead")
	p.Write(t, "constellations/check/manifest.yml", bootableManifest)
	first := p.Must(t, "build", "check", "--boot")
	if !slices.Contains(first.Ran(), "check/m boot check") {
		t.Errorf("the first build ran %q", first.Ran())
	}
	verdicts, _ := filepath.Glob(p.Path("data/cache/cas/*/*"))
	found := false
	for _, f := range verdicts {
		if fi, err := os.Stat(f); err != nil || fi.Size() > 4096 {
			continue
		}
		var v vm.Verdict
		b, err := os.ReadFile(f)
		if err == nil && json.Unmarshal(b, &v) == nil && v.Ready {
			found = v.Seconds > 0 && strings.HasPrefix(v.Kernel, "Linux ") && v.OSRelease["VERSION_CODENAME"] == "bookworm"
		}
	}
	if !found {
		t.Error("the cache has no verdict with the kernel and the system")
	}
	p.Write(t, "constellations/check/manifest.yml", "boot_check: true\n"+bootableManifest)
	if second := p.Must(t, "build", "check"); len(second.Ran()) != 0 {
		t.Errorf("the second build booted the same machine again: ran %q", second.Ran())
	}
	if left := processes(t, p.Root); len(left) > 0 {
		t.Errorf("still running: %q", left)
	}
	leftovers(t, p)

	// A machine without an init panics, and meros must report that.
	p.Write(t, "constellations/dead/manifest.yml", plain)
	o := p.Run(t, "build", "dead", "--boot")
	fails(t, o, 1, "dead/m boot check", "ended before the first login", "meros:")
	leftovers(t, p)
}

// TestNoQEMU checks the error of init on a host without QEMU.
func TestNoQEMU(t *testing.T) {
	p := lab.Downloaded(t, "noqemu")
	p.Write(t, "constellations/noqemu/manifest.yml", plain)
	o := lab.Finish(t, p.AsUser(t, lab.UserOptions{Without: []string{"qemu-system-x86_64"}}, p.Command(t, "init", "noqemu")))
	fails(t, o, 1, "qemu-system-x86_64", "apt install qemu-system")
}
