// This file tests the example lab: networks, copies, consoles and repairs of
// running machines.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"meros/bench/lab"
	"meros/runner/network"
	"meros/runner/vm"
)

// labSupervisor returns the id of the constellation's supervisor process outside
// its namespaces.
func labSupervisor(t *testing.T, p *lab.Project) int {
	t.Helper()
	for _, line := range processes(t, p.Root) {
		if number, rest, _ := strings.Cut(line, " "); strings.Contains(rest, " "+superviseArg+" ") {
			pid, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("there is no supervisor")
	return 0
}

// states returns the status of each machine, by name.
func states(t *testing.T, meros func(...string) *lab.Outcome) map[string]vm.Status {
	t.Helper()
	var all []vm.Status
	if err := json.Unmarshal([]byte(meros("info", "lab", "--json").Stdout), &all); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]vm.Status)
	for _, s := range all {
		found[s.Machine] = s
	}
	return found
}

// TestLab runs the example lab as root and as an ordinary user. Machines reach
// each other as the manifest says, init repairs failures, and a shutdown leaves
// nothing behind.
func TestLab(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-x86_64", "ssh", "pasta", "dnsmasq")
	for _, who := range []string{"root", "user"} {
		t.Run(who, func(t *testing.T) {
			project := lab.Built
			if who == "user" {
				project = lab.Downloaded
			}
			p := project(t, "lab")
			manifest := readFile(t, "../../constellations/lab/manifest.yml")
			p.Write(t, "constellations/lab/manifest.yml", strings.Replace(manifest, "cpus: 1", "cpus: 2", 1)) // of the gate
			p.Write(t, "constellations/lab/site/index.html", "of the host\n")
			meros := func(args ...string) *lab.Outcome {
				t.Helper()
				cmd := p.Command(t, args...)
				if who == "user" {
					cmd = p.AsUser(t, lab.UserOptions{}, cmd)
				}
				return lab.Finish(t, cmd)
			}
			liveLab(t, p, who, func(args ...string) *lab.Outcome {
				t.Helper()
				o := meros(args...)
				if o.Exit != 0 {
					t.Fatalf("meros %q: exit status %d\n%s%s", args, o.Exit, o.Stdout, o.Stderr)
				}
				return o
			})
		})
	}
}

func liveLab(t *testing.T, p *lab.Project, who string, meros func(...string) *lab.Outcome) {
	before := hostNetwork(t)
	t.Cleanup(func() {
		if t.Failed() {
			for _, line := range processes(t, p.Root) {
				pid, _, _ := strings.Cut(line, " ")
				if n, err := strconv.Atoi(pid); err == nil {
					syscall.Kill(n, syscall.SIGKILL)
				}
			}
		}
	})
	if o := meros("init", "lab"); !strings.Contains(o.Stderr, "2 bridges, 4 interfaces") {
		t.Errorf("init printed\n%s", o.Stderr)
	}
	if now := hostNetwork(t); now != before {
		t.Errorf("the host's network is\n%s\nbefore it was\n%s", now, before)
	}
	in := func(machine, line string) string {
		t.Helper()
		return meros("connect", "lab", machine, "--", line).Stdout
	}
	t.Run("net check", func(t *testing.T) { checkedPaths(t, meros) })
	t.Run("paths", func(t *testing.T) { triedPaths(t, in) })

	if o := meros("init", "lab"); strings.Contains(o.Stderr, `"lab: `) || strings.Count(o.Stderr, "runs already") != 3 {
		t.Errorf("the second init printed\n%s", o.Stderr)
	}
	t.Run("second net check", func(t *testing.T) { checkedPaths(t, meros) })
	t.Run("mount", func(t *testing.T) {
		if got := in("web", "cat /srv/site/index.html && echo back > /srv/site/new && systemctl is-system-running --wait"); got != "of the host\nrunning\n" {
			t.Errorf("the machine reads %q", got)
		}
		if got := readFile(t, p.Path("constellations/lab/site/new")); got != "back\n" {
			t.Errorf("the machine wrote %q", got)
		}
	})
	t.Run("copies", func(t *testing.T) { copies(t, p, meros, in) })
	if os.Getuid() == 0 && who == "root" {
		t.Run("changed code", func(t *testing.T) { changedCode(t, in) })
		t.Run("restart and reset", func(t *testing.T) { restartAndReset(t, p, meros, in) })
	}

	// init restarts a machine that died, and no other machine.
	was := states(t, meros)
	syscall.Kill(was["web"].PID, syscall.SIGKILL)
	for end := time.Now().Add(guestTimeout(t)); states(t, meros)["web"].State != vm.Crashed; {
		if time.Now().After(end) {
			t.Fatalf("web is %+v", states(t, meros)["web"])
		}
	}
	if s := states(t, meros)["web"]; s.Exit != "QEMU: signal: killed" {
		t.Errorf("the exit of web is %q", s.Exit)
	}
	meros("init", "lab")
	now := states(t, meros)
	if now["db"].PID != was["db"].PID || now["web"].PID == was["web"].PID || now["web"].State != vm.Ready {
		t.Errorf("after the repair the machines are %+v", now)
	}

	// When the supervisor ends, every process of the constellation ends.
	syscall.Kill(labSupervisor(t, p), syscall.SIGKILL)
	settled(t, p.Root)
	if s := states(t, meros)["gate"]; s.State != vm.Crashed || !strings.Contains(s.Exit, "supervisor was killed") {
		t.Errorf("gate is %+v", s)
	}
	meros("init", "lab", "db")
	meros("shutdown", "lab")
	settled(t, p.Root) // the shared ssh connection ends shortly after the machine
	if now := hostNetwork(t); now != before {
		t.Errorf("the host's network is\n%s\nbefore it was\n%s", now, before)
	}
	leftovers(t, p)
}

// copies pushes a tree to a machine and pulls it back.
func copies(t *testing.T, p *lab.Project, meros func(...string) *lab.Outcome, in func(machine, line string) string) {
	const unusual = "tree/a b\n'ü\xff$x"
	p.Write(t, unusual, "first")
	p.Write(t, "tree/run", "#!/bin/sh\n")
	if err := os.Symlink("/etc/passwd", p.Path("tree/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Path("tree/holes"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p.Path("tree/holes"), 1<<30); err != nil {
		t.Fatal(err)
	}
	then := time.Unix(1_600_000_000, 0)
	for name, mode := range map[string]os.FileMode{"tree/run": 0o754, "tree/holes": 0o600} {
		if err := os.Chmod(p.Path(name), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p.Path(name), then, then); err != nil {
			t.Fatal(err)
		}
	}
	meros("push", "lab", "gate", p.Path("tree"))
	want := "1600000000 754 /etc/passwd 1073741824 first"
	look := `cd mos-shared/tree && echo $(stat -c '%Y %a' run) $(readlink link) $(stat -c %s holes) $(cat a*b*x); test $(stat -c %b holes) -lt 100`
	if got := in("gate", look); got != want+"\n" {
		t.Errorf("the machine has %q, want %q", got, want)
	}
	p.Write(t, unusual, "second")
	meros("push", "lab", "gate", p.Path("tree"))
	to := p.Path("back")
	meros("pull", "lab", "gate", "tree", "/etc/hostname", to)
	for name, text := range map[string]string{unusual: "second", "hostname": "gate\n", "tree/run": "#!/bin/sh\n"} {
		if got := readFile(t, filepath.Join(to, name)); got != text {
			t.Errorf("%q came back as %q, want %q", name, got, text)
		}
	}
	fi, err := os.Stat(filepath.Join(to, "tree/holes"))
	if err != nil || fi.Size() != 1<<30 || fi.Sys().(*syscall.Stat_t).Blocks > 1000 || fi.Mode() != 0o600 || !fi.ModTime().Equal(then) {
		t.Errorf("the file with holes came back as %+v, %v", fi, err)
	}
	if link, err := os.Readlink(filepath.Join(to, "tree/link")); err != nil || link != "/etc/passwd" {
		t.Errorf("the link came back as %q, %v", link, err)
	}
}

// restartAndReset checks that a restart preserves a machine's disk, that a
// snapshot restores it and that a reset replaces it.
func restartAndReset(t *testing.T, p *lab.Project, meros func(...string) *lab.Outcome, in func(machine, line string) string) {
	in("db", "echo kept > /root/mark && sync")
	meros("restart", "lab", "db")
	if got := in("db", "cat /root/mark"); got != "kept\n" {
		t.Errorf("after a restart the file has %q", got)
	}
	onConsole(t, meros, "lab", "db", "db login:") // ssh may answer before
	meros("snapshot", "save", "lab", "clean", "db")
	in("db", "echo later > /root/later && sync")
	meros("snapshot", "restore", "lab", "clean", "db")
	if got := in("db", "ls /root"); got != "mark\n" {
		t.Errorf("after the snapshot is restored /root has %q", got)
	}
	fails(t, p.Run(t, "snapshot", "restore", "lab", "other", "db"), 1, "there is no snapshot", "clean")
	var loads []load
	if err := json.Unmarshal([]byte(meros("top", "lab", "--json", "--interval=500ms").Stdout), &loads); err != nil || len(loads) != 3 || loads[0].Memory < 1<<20 {
		t.Errorf("top printed %+v, error %v", loads, err)
	}
	typedAtConsole(t, p.Command(t, "console", "lab", "db"))
	meros("reset", "lab", "db")
	if got := in("db", "ls /root/mark 2>/dev/null || echo gone"); got != "gone\n" {
		t.Errorf("after a reset the machine printed %q", got)
	}
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte(meros("ssh-config", "lab").Stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ssh", "-F", config, "db.lab", "hostname").CombinedOutput(); err != nil || string(out) != "db\n" {
		t.Errorf("ssh with the configuration of ssh-config printed %q, error %v", out, err)
	}
}

// typedAtConsole checks that a console shows typed text and ends with its input.
func typedAtConsole(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(guestTimeout(t), func() { cmd.Process.Kill() }).Stop()
	io.WriteString(in, "nobody\n")
	var said []byte
	for b := make([]byte, 1024); !bytes.Contains(said, []byte("nobody")); {
		n, err := out.Read(b)
		said = append(said, b[:n]...)
		if err != nil {
			t.Errorf("the console printed %q, then %v", said, err)
			break
		}
	}
	in.Close()
	io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the console ended with %v", err)
	}
}

// changedCode makes a kernel change its own code while another processor runs it.
// An emulator may get this wrong.
func changedCode(t *testing.T, in func(machine, line string) string) {
	got := in("gate", `for i in 1 2; do (while :; do /bin/true; done) & done; trap 'kill $(jobs -p)' EXIT
for i in $(seq 200); do for v in 1 0; do echo $v > /proc/sys/kernel/sched_schedstats; done; done; nproc`)
	if got != "2\n" {
		t.Errorf("the machine with two processors printed %q", got)
	}
}

// hostNetwork describes the settings of the host's network that meros could
// change.
func hostNetwork(t *testing.T) string {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, i := range all {
		addrs, _ := i.Addrs()
		fmt.Fprintln(&b, i.Name, i.Flags, addrs)
	}
	for _, f := range []string{"/proc/net/route", "/proc/sys/net/ipv4/ip_forward"} {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String()
}

// checkedPaths checks that every result of `meros net check` agrees with the
// manifest.
func checkedPaths(t *testing.T, meros func(...string) *lab.Outcome) {
	var results []network.Result
	if err := json.Unmarshal([]byte(meros("net", "check", "lab", "--json").Stdout), &results); err != nil {
		t.Fatal(err)
	}
	if len(results) < 12 {
		t.Errorf("net check tried only %d paths", len(results))
	}
	for _, r := range results {
		if !r.OK() {
			t.Errorf("%s to %s: %+v", r.From, r.To, r)
		}
	}
}

// triedPaths tries network paths from inside the machines.
func triedPaths(t *testing.T, in func(machine, line string) string) {
	// A service of the host that machines may reach.
	l, err := net.Listen("tcp", "0.0.0.0:8021")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "from the host\n")
			c.Close()
		}
	}()
	// The timeout is short only for closed paths, because a slow guest answers late.
	try := func(a string, seconds int) string {
		host, port, _ := net.SplitHostPort(a)
		return fmt.Sprintf("timeout %d bash -c 'exec 3<>/dev/tcp/%s/%s && head -c 4 <&3' 2>/dev/null || echo no", seconds, host, port)
	}
	reach := func(a string) string { return try(a, 120) }
	miss := func(a string) string { return try(a, 10) }
	for _, w := range []struct{ from, line, want string }{
		{"gate", reach("db:22"), "SSH-"},
		{"gate", reach("web.lab:22"), "SSH-"},
		{"gate", reach("db.lab:22"), "SSH-"},
		{"web", reach("gate:22"), "SSH-"},
		{"web", miss("10.22.0.12:22"), "no\n"},
		{"db", reach("gate:22"), "SSH-"},
		{"db", miss("10.21.0.11:22"), "no\n"},
		{"web", reach("10.21.0.1:8021"), "from"},
		{"web", miss("10.21.0.1:22"), "no\n"},
		{"db", miss("10.22.0.1:8021"), "no\n"},
		{"db", miss("10.21.0.1:8021"), "no\n"},
		{"web", "getent hosts gate | cut -d' ' -f1", "10.21.0.11\n"},
		{"web", "ip -o route show default | wc -l", "1\n"},
		{"db", "ip -o route show default | wc -l", "0\n"},
	} {
		if got := in(w.from, w.line); got != w.want {
			t.Errorf("%s: %s printed %q, want %q", w.from, w.line, got, w.want)
		}
	}
	// The host forwards a port to the gate.
	c, err := net.DialTimeout("tcp", "127.0.0.1:8022", guestTimeout(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(guestTimeout(t)))
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "SSH-" {
		t.Errorf("port 8022 of the host answers %q, error %v", b, err)
	}
}
