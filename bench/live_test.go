// This file measures the networks of a constellation and its running machines.

package bench

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"meros/bench/lab"
	"meros/runner/network"
)

// innerEnv names the environment variable that marks a benchmark's process in
// its own namespaces.
const innerEnv = "MEROS_BENCH_NETNS"

// byCommands creates the links that measureApply creates, with ip(8), and a
// simple rule set with nft(8).
const byCommands = `set -e
for b in 0 1; do ip link add b$b type bridge; ip addr add 10.$b.0.1/24 dev b$b; ip link set b$b up; done
for t in 0 1 2 3 4 5 6 7 8 9; do ip tuntap add dev t$t mode tap; ip link set t$t master b$((t % 2)); ip link set t$t up; done
echo 'table inet x { chain forward { type filter hook forward priority 0; policy drop; ct state established accept; }; }' | nft -f -
for t in 0 1 2 3 4 5 6 7 8 9; do ip link del t$t; done
for b in 0 1; do ip link del b$b; done`

// BenchmarkNetworks sets up two bridges with ten taps and their policies. The
// peer calls ip(8) once per object and nft(8) once. Half of the peer's time goes
// into removing the objects.
func BenchmarkNetworks(b *testing.B) {
	if os.Getenv(innerEnv) != "" {
		measureApply(b)
		return
	}
	lab.Need(b, "unshare", "ip", "nft")
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		cmd := exec.Command("unshare", "--user", "--map-root-user", "--net", "--mount", os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkNetworks$", "-test.benchtime=1x")
		cmd.Env = append(os.Environ(), innerEnv+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		for line := range strings.Lines(string(out)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
			if f, err := strconv.ParseFloat(value, 64); err == nil {
				s.add(name, f)
			}
		}
	}
}

// measureApply measures in the namespace and prints the results.
func measureApply(b *testing.B) {
	runtime.LockOSThread()
	for b.Loop() {
		start := time.Now()
		if out, err := exec.Command("sh", "-c", byCommands).CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		commands := time.Since(start)
		var bridges []network.Bridge
		for i := range 2 {
			br := network.Bridge{Name: fmt.Sprint("b", i), Address: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.1/24", i)), Policy: network.Policy{World: true, ICMP: true, HostPorts: []uint16{22, 80}}}
			for j := range 5 {
				br.Taps = append(br.Taps, network.Tap{Name: fmt.Sprintf("t%d%d", i, j)})
			}
			bridges = append(bridges, br)
		}
		n := new(network.Network)
		start = time.Now()
		if _, err := n.Apply(bridges, "up0"); err != nil {
			b.Fatal(err)
		}
		ours := time.Since(start)
		start = time.Now()
		if changes, err := n.Apply(bridges, "up0"); err != nil || len(changes) > 0 {
			b.Fatal(changes, err)
		}
		again := time.Since(start)
		fmt.Printf("ms/apply = %f\nms/again = %f\nx/commands = %f\n", ours.Seconds()*1000, again.Seconds()*1000, commands.Seconds()/ours.Seconds())
	}
}

// BenchmarkLive measures running tiny machines: a command, info, and a copy of
// 64 MB. It also measures the start of one machine, and of three at once, up to
// ssh. The peer of the command
// is ssh(1) with an open connection; the peer of the copy is sftp(1).
func BenchmarkLive(b *testing.B) {
	lab.Need(b, "qemu-system-x86_64", "ssh", "sftp", "dnsmasq", "pasta")
	s := make(samples)
	defer s.report(b)
	p := lab.Downloaded(b, "live")
	manifest := "bridges: {live0: {subnet: 10.31.0.0/24}}\nvirtual_machines:\n"
	for _, m := range []string{"a", "b", "c"} {
		manifest += fmt.Sprintf("  %s: {suite: bookworm, memory: 384M, cpus: 1, packages: %s, networks: [{label: live-%[1]s, bridge: live0}]}\n", m, lab.Packages)
	}
	p.Write(b, "constellations/live/manifest.yml", manifest)
	p.Tiny(b, "live", "common")
	p.Must(b, "build", "live")
	b.Cleanup(func() { p.Run(b, "shutdown", "live", "--wait=0") })
	for b.Loop() {
		one := p.Must(b, "init", "live", "a").Wall
		p.Must(b, "shutdown", "live", "--wait=0")
		three := p.Must(b, "init", "live").Wall
		s.add("s/one", one.Seconds())
		s.add("s/three", three.Seconds())
		s.add("three/one", three.Seconds()/one.Seconds())
		connects(b, p, s)
		copies(b, p, s)
		s.add("ms/info", shortest(func() time.Duration { return p.Must(b, "info", "live").Wall }).Seconds()*1000)
	}
}

// shortest returns the shortest of five measurements.
func shortest(f func() time.Duration) time.Duration {
	least := f()
	for range 4 {
		least = min(least, f())
	}
	return least
}

// timed runs a command, which must succeed, and returns how long it took.
func timed(b *testing.B, argv ...string) time.Duration {
	b.Helper()
	start := time.Now()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		b.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return time.Since(start)
}

// sshConfig returns the options that make ssh(1) use the project's configuration
// and share connections.
func sshConfig(b *testing.B, p *lab.Project) []string {
	b.Helper()
	file := filepath.Join(b.TempDir(), "config")
	if err := os.WriteFile(file, []byte(p.Must(b, "ssh-config", "live").Stdout), 0o600); err != nil {
		b.Fatal(err)
	}
	return []string{"-F", file, "-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", "ControlPath=" + filepath.Join(filepath.Dir(file), "c")}
}

func connects(b *testing.B, p *lab.Project, s samples) {
	plain := append(append([]string{"ssh"}, sshConfig(b, p)...), "a", "true")
	timed(b, plain...) // opens the shared connection
	p.Must(b, "connect", "live", "a", "--", "true")
	theirs := shortest(func() time.Duration { return timed(b, plain...) })
	ours := shortest(func() time.Duration { return p.Must(b, "connect", "live", "a", "--", "true").Wall })
	s.add("s/connect", ours.Seconds())
	s.add("connect/ssh", ours.Seconds()/theirs.Seconds())
}

func copies(b *testing.B, p *lab.Project, s samples) {
	file := filepath.Join(b.TempDir(), "blob")
	content := make([]byte, 64<<20)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		b.Fatal(err)
	}
	batch := filepath.Join(filepath.Dir(file), "batch")
	if err := os.WriteFile(batch, []byte("put "+file+" /root/by-sftp\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	theirs := timed(b, append(append([]string{"sftp"}, sshConfig(b, p)...), "-b", batch, "a")...)
	ours := p.Must(b, "push", "live", "a", file).Wall
	s.add("MB/s/push", 64*1.048576/ours.Seconds())
	s.add("x/sftp", theirs.Seconds()/ours.Seconds())
}
