// This file tests networks, name servers, ports and the order of starts.

package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"meros/bench/lab"
	"meros/constellations"
	"meros/runner/hint"
)

func networksOf(t *testing.T, manifest string) *Networks {
	t.Helper()
	m, err := constellations.Parse("lab", "manifest.yml", []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	ns, err := NewNetworks(m, func(machine string, n constellations.Network) string { return "mac-" + machine + "-" + n.Label })
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

const networked = `
bridges:
  lan: {subnet: 10.1.0.0/24, allowed_ports: [80], egress: [":443"]}
  back: {subnet: 10.2.0.0/29, policy_type: isolated, allowed_ips: [192.0.2.0/28, 198.51.100.7], peers: isolated}
virtual_machines:
  a:
    ports: ["127.0.0.1:8080->80"]
    networks: [{label: a-lan, bridge: lan}, {label: a-back, bridge: back, ip_addr: 10.2.0.2}]
  b: {networks: [{label: b-lan, bridge: lan, ip_addr: 10.1.0.2}, {label: b-back, bridge: back}]}
  c: {networks: [{label: c-lan, bridge: lan}]}
`

func TestNewNetworks(t *testing.T) {
	ns := networksOf(t, networked)
	var hosts []string
	for _, h := range ns.Hosts {
		hosts = append(hosts, fmt.Sprint(h.Machine, " ", h.Bridge, " ", h.Tap, " ", h.Address))
	}
	// Interfaces without an address get a free one.
	if got, want := strings.Join(hosts, ", "), "a lan a-lan 10.1.0.3, b lan b-lan 10.1.0.2, c lan c-lan 10.1.0.4, a back a-back 10.2.0.2, b back b-back 10.2.0.3"; got != want {
		t.Errorf("hosts are %s, want %s", got, want)
	}
	lan, back := ns.Bridges[0], ns.Bridges[1]
	if lan.Address.String() != "10.1.0.1/24" || !lan.Policy.World || lan.Policy.Isolated || len(lan.Policy.Egress) != 1 || !lan.Policy.ICMP || len(lan.Taps) != 3 {
		t.Errorf("lan is %+v", lan)
	}
	if back.Policy.World || len(back.Policy.HostPorts) != 0 || !back.Policy.Isolated || back.Policy.ICMP || len(back.Policy.Allowed) != 2 {
		t.Errorf("back is %+v", back)
	}
	if !ns.uplinked() || len(ns.Ports) != 1 || ns.Ports[0].String() != "127.0.0.1:8080->a:80" {
		t.Errorf("ports are %v", ns.Ports)
	}
	if got := ns.management().String(); got != "10.0.2.0/24" {
		t.Errorf("the management network is %s", got)
	}
	ns.Bridges[0].Address = netip.MustParsePrefix("10.0.0.1/20")
	if got := ns.management().String(); got != "10.0.16.0/24" {
		t.Errorf("beside 10.0.0.0/20 the management network is %s", got)
	}
}

func TestFullAndForeignBridges(t *testing.T) {
	for manifest, want := range map[string]string{
		"bridges: {b: {subnet: 10.2.0.0/30}}\nvirtual_machines:\n  a: {networks: [{label: x, bridge: b}]}\n  c: {networks: [{label: y, bridge: b}]}\n": "no address left for c",
		"bridges: {b: {auto_create: false}}\nvirtual_machines:\n  a: {networks: [{label: x, bridge: b}]}\n":                                            "auto_create",
	} {
		m, err := constellations.Parse("lab", "manifest.yml", []byte(manifest))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewNetworks(m, func(string, constellations.Network) string { return "" }); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// The command line of a name server for each kind of bridge.
func TestDnsmasq(t *testing.T) {
	ns := networksOf(t, networked)
	lan := strings.Join(dnsmasq(ns, ns.Bridges[0], "169.254.1.53", true), " ")
	for _, want := range []string{
		"--keep-in-foreground --user=nobody", "--interface=lan", "--dhcp-range=10.1.0.0,static,255.255.255.0,1h", "--dhcp-option=option:router,10.1.0.1",
		"--server=169.254.1.53", "--dhcp-host=mac-a-a-lan,10.1.0.3,a", "--host-record=b,b.lab,10.1.0.2", "--pid-file= --leasefile-ro",
	} {
		if !strings.Contains(lan, want) {
			t.Errorf("the command line lacks %q:\n%s", want, lan)
		}
	}
	back := strings.Join(dnsmasq(ns, ns.Bridges[1], "169.254.1.53", false), " ")
	for _, want := range []string{"--no-daemon", "--dhcp-range=10.2.0.0,static,255.255.255.248,1h", "--dhcp-option=option:classless-static-route,192.0.2.0/28,10.2.0.1,198.51.100.7/32,10.2.0.1", "--dhcp-host=mac-b-b-back,10.2.0.3,b"} {
		if !strings.Contains(back, want) {
			t.Errorf("the command line lacks %q:\n%s", want, back)
		}
	}
	// Isolated machines cannot resolve each other, and the name server of an isolated
	// bridge does not ask the world.
	for _, bad := range []string{"--server", "--host-record=a", "--host-record=b", "10.1.0.", "--user"} {
		if strings.Contains(back, bad) {
			t.Errorf("the command line holds %q:\n%s", bad, back)
		}
	}
}

// A machine starts once the machines that it depends on are ready. It does not
// start if one of them fails.
func TestOrder(t *testing.T) {
	machines := []*Machine{{Name: "a", After: []string{"b", "elsewhere"}}, {Name: "b", After: []string{"c"}}, {Name: "c"}, {Name: "d"}}
	for _, fails := range []bool{false, true} {
		o := newOrder(machines)
		var mu sync.Mutex
		var started []string
		var wg sync.WaitGroup
		errs := make(map[string]error)
		for _, m := range machines {
			wg.Go(func() {
				err := o.wait(t.Context(), m)
				mu.Lock()
				if err == nil {
					started = append(started, m.Name)
				}
				mu.Unlock()
				if m.Name == "c" && fails {
					err = errors.New("no")
				}
				o.done(m, err)
				mu.Lock()
				errs[m.Name] = err
				mu.Unlock()
			})
		}
		wg.Wait()
		all := strings.ReplaceAll(strings.Join(started, ""), "d", "")
		if !fails && all != "cba" || fails && (all != "c" || errs["b"] == nil || errs["a"] == nil || errs["d"] != nil) {
			t.Errorf("c fails: %v; started %q, %v", fails, started, errs)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if err := newOrder(machines).wait(ctx, machines[0]); err == nil || err.Error() != "enough" {
		t.Errorf("%v", err)
	}
}

func TestMemory(t *testing.T) {
	have, err := availableMemory()
	if err != nil || have < 1<<20 {
		t.Fatal(have, err)
	}
	if err := checkMemory([]*Machine{{Memory: 1 << 20}}); err != nil {
		t.Error(err)
	}
	if err := checkMemory([]*Machine{{Memory: 1 << 20}, {Memory: 2 * have}}); err == nil || !strings.Contains(err.Error(), "the host has") || !strings.Contains(hint.Of(err), "`meros init CONSTELLATION MACHINE`") {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}

// The error about a taken port names the process that holds it.
func TestHolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := netip.MustParseAddrPort(l.Addr().String())
	if got := holder(a); !strings.Contains(got, fmt.Sprintf("process %d,", os.Getpid())) {
		t.Errorf("%s is held by %q", a, got)
	}
	o := &outer{group: newGroup(t), listens: make(map[Port]net.Listener)}
	err = o.listen(t.Context(), []Port{{a, "m", 80}})
	if err == nil || !strings.Contains(err.Error(), "address already in use (vm.test, process") {
		t.Errorf("%v", err)
	}
	// Listeners follow the manifest.
	free := Port{netip.AddrPortFrom(a.Addr(), uint16(freeTCP(t))), "m", 80}
	for _, ports := range [][]Port{{free}, {free}, nil} {
		if err := o.listen(t.Context(), ports); err != nil || len(o.listens) != len(ports) {
			t.Errorf("%v: %v, %v", ports, o.listens, err)
		}
	}
	if l, err := net.Listen("tcp", free.Listen.String()); err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
}

func freeTCP(t *testing.T) int {
	t.Helper()
	p, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The two processes of a supervisor pass messages and files to each other.
func TestPair(t *testing.T) {
	ours, theirs, err := newPair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.conn.Close()
	other, err := openPair(theirs)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := other.send(hostRequest{Op: "host", Port: 80}, f); err != nil {
		t.Fatal(err)
	}
	var q hostRequest
	got, err := ours.receive(&q)
	if err != nil || got == nil || q.Op != "host" || q.Port != 80 {
		t.Fatalf("%+v, %v, %v", q, got, err)
	}
	if _, err := got.WriteString("x"); err != nil {
		t.Error(err)
	}
	got.Close()
	if b, err := os.ReadFile(f.Name()); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	other.conn.Close()
	if _, err := ours.receive(&q); err == nil {
		t.Error("receive missed the end of the connection")
	}
}

func TestRelay(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ends := func() (a, b net.Conn) {
		t.Helper()
		a, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if b, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		return a, b
	}
	left, leftIn := ends()
	right, rightIn := ends()
	done := make(chan struct{})
	go func() { relay(leftIn, rightIn); close(done) }()
	left.Write([]byte("hello"))
	left.(*net.TCPConn).CloseWrite()
	b := make([]byte, 16)
	n, _ := right.Read(b)
	right.Write([]byte("answer")) // after the other direction has ended
	m, _ := left.Read(b[n:])
	if string(b[:n]) != "hello" || string(b[n:n+m]) != "answer" {
		t.Errorf("%q and %q came through", b[:n], b[n:n+m])
	}
	right.Close()
	select {
	case <-done:
	case <-time.After(lab.Timeout(t, time.Minute)):
		t.Error("relay does not return")
	}
	left.Close()
}
