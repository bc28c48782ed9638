// This file tests rules and paths in network namespaces of its own.

package network

import (
	"flag"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"meros/bench/lab"
)

var update = flag.Bool("update", false, "write the golden files")

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// groups returns sets of bridges, by name. Their rules have golden files, and
// their paths are tried.
func groups() map[string][]Bridge {
	host := Policy{World: true, HostPorts: []uint16{22, 80}, ICMP: true}
	return map[string][]Bridge{
		"host-access": {{Name: "lan", Address: prefix("10.91.0.1/24"), Policy: host}},
		"isolated":    {{Name: "lan", Address: prefix("10.91.0.1/24")}},
		"both": {
			{Name: "lan", Address: prefix("10.91.0.1/24"), Policy: host},
			{Name: "closed", Address: prefix("10.92.0.1/24"), Policy: Policy{Allowed: []netip.Prefix{prefix("192.0.2.0/28"), prefix("10.93.0.0/24")}}},
			{Name: "apart", Address: prefix("10.93.0.1/29"), Policy: Policy{World: true, Isolated: true, Egress: []Flow{{Text: ":443", Protocol: "tcp", Port: 443}, {Text: "198.51.100.9", Network: prefix("198.51.100.9/32")}}, Ingress: []Flow{{Text: "10.91.0.0/24:22", Network: prefix("10.91.0.0/24"), Protocol: "tcp", Port: 22}}}},
		},
	}
}

func TestRules(t *testing.T) {
	for name, bridges := range groups() {
		file := filepath.Join("testdata", name+".nft")
		got := String(bridges, "up0")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: the rules differ from the golden file:\n%s", name, got)
		}
	}
}

// namespaceEnv names the environment variable that is set in namespaces where a
// test may make networks.
const namespaceEnv = "MEROS_TEST_NETNS"

// freshNamespace runs the calling test again in the namespaces that an ordinary
// user gets, and returns false. In those namespaces it returns true.
func freshNamespace(t *testing.T) bool {
	if os.Getenv(namespaceEnv) != "" {
		runtime.LockOSThread()
		return true
	}
	lab.Need(t, "unshare")
	argv := []string{"--user", "--map-root-user", "--net", "--mount", "--fork", "--kill-child", "--mount-proc", "--pid", "sh", "-c", `mount -t sysfs sysfs /sys; exec "$@"`, "sh", os.Args[0], "-test.run=^" + t.Name() + "$", "-test.v"}
	cmd := exec.CommandContext(t.Context(), "unshare", argv...)
	cmd.Env = append(os.Environ(), namespaceEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

// world makes an uplink and returns the peer at its other end.
func world(t *testing.T) *endpoint {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	peer, err := plugEndpoint("w", Bridge{Name: makeBridge(t, "wan"), Address: prefix("198.51.100.1/24")}, netip.MustParseAddr("198.51.100.9"))
	if err != nil {
		t.Fatal(err)
	}
	wan, err := netlink.LinkByName("wan")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr("198.51.100.1/24")
	if err == nil {
		err = netlink.AddrAdd(wan, addr)
	}
	if err == nil {
		err = netlink.RouteAdd(&netlink.Route{LinkIndex: wan.Attrs().Index, Gw: net.ParseIP("198.51.100.9")})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(peer.close)
	return peer
}

func makeBridge(t *testing.T, name string) string {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	l := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	return name
}

func up(t *testing.T, name string) { setLink(t, name, netlink.LinkSetUp) }

func down(t *testing.T, name string) { setLink(t, name, netlink.LinkSetDown) }

func setLink(t *testing.T, name string, set func(netlink.Link) error) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = set(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The host asks at once for an address that did not answer a moment ago.
func TestStaleNeighbour(t *testing.T) {
	if !freshNamespace(t) {
		return
	}
	b := Bridge{Name: makeBridge(t, "lan"), Address: prefix("10.91.0.1/24")}
	l, err := netlink.LinkByName("lan")
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(b.Address.String())
	if err == nil {
		err = netlink.AddrAdd(l, a)
	}
	if err != nil {
		t.Fatal(err)
	}
	to := netip.MustParseAddrPort("10.91.0.254:22")
	for range 3 {
		c, err := net.Dial("udp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		// A bridge without a link has no carrier, so it gets an endpoint first.
		e, err := plugEndpoint("probe", b, netip.MustParseAddr("10.91.0.9"))
		if err == nil {
			err = e.settle(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		it, err := plugEndpoint("probe2", b, to.Addr())
		if err != nil {
			t.Fatal(err)
		}
		// The endpoint cannot answer yet, and an old connection sends again.
		down(t, it.link)
		c.Write([]byte("x"))
		c.Close()
		up(t, it.link)
		err = it.settle(t.Context())
		var known []netlink.Neigh
		if err == nil {
			known, err = netlink.NeighList(l.Attrs().Index, netlink.FAMILY_V4)
		}
		for _, n := range known {
			if n.IP.Equal(to.Addr().AsSlice()) && n.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) != 0 {
				t.Errorf("the neighbour table still holds the failed entry: %+v", n)
			}
		}
		if err == nil {
			err = it.serve(func(a netip.AddrPort) error { return dial(t.Context(), openTimeout, a) }, to.Port())
		}
		if err != nil {
			t.Error(err)
		}
		it.close()
		e.close()
	}
}

// Every path behaves as the policies say, before and after they are applied a
// second time.
func TestMatrix(t *testing.T) {
	if !freshNamespace(t) {
		return
	}
	world(t)
	n := new(Network)
	all := groups()
	for _, name := range []string{"host-access", "isolated", "both", "host-access"} {
		bridges := all[name]
		for round := range 2 {
			start := time.Now()
			changes, err := n.Apply(bridges, "wan")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			t.Logf("%s, round %d, %v: %s", name, round, time.Since(start), strings.Join(changes, ", "))
			if round > 0 && len(changes) > 0 {
				t.Errorf("%s: the second Apply changed %q", name, changes)
			}
			results, err := Check(t.Context(), bridges, "wan", nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, r := range results {
				if !r.OK() {
					t.Errorf("%s, round %d: %s to %s: reached is %v (%s), want %v", name, round, r.From, r.To, r.Reached, r.Said, r.Open)
				}
			}
			if len(results) < 5 {
				t.Errorf("%s: Check tried only %d paths", name, len(results))
			}
		}
	}
	if links, err := netlink.LinkList(); err != nil || len(links) != 4 { // lo, wan, its peer's end, lan
		t.Errorf("the links are %v, %v, want 4", links, err)
	}
}

// The matrix does not cover connections from the world: it reaches no machine
// and no port of the host. A machine reaches it with the host's address.
func TestFromTheWorld(t *testing.T) {
	if !freshNamespace(t) {
		return
	}
	peer := world(t)
	bridges := groups()["host-access"]
	if _, err := new(Network).Apply(bridges, "wan"); err != nil {
		t.Fatal(err)
	}
	guest, err := plugEndpoint("g", bridges[0], netip.MustParseAddr("10.91.0.5"))
	if err != nil {
		t.Fatal(err)
	}
	defer guest.close()
	// The peer in the world has a route to the guests.
	err = peer.run(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		dst, err := netlink.ParseIPNet("10.91.0.0/24")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Gw: net.ParseIP("198.51.100.1")})
	})
	if err != nil {
		t.Fatal(err)
	}
	tries := map[string]func(netip.AddrPort) error{
		"the world to a machine": func(a netip.AddrPort) error { return peer.run(func() error { return dial(t.Context(), timeout, a) }) },
	}
	for name, try := range tries {
		if err := guest.serve(try, 22); err == nil {
			t.Errorf("%s: the connection succeeded", name)
		}
	}
	for _, a := range []string{"198.51.100.1:22", "10.91.0.1:22"} {
		if err := peer.run(func() error { return dial(t.Context(), timeout, netip.MustParseAddrPort(a)) }); err == nil || strings.Contains(err.Error(), "refused") {
			t.Errorf("the world to the host's %s: %v", a, err)
		}
	}
	// The world answers a machine, and sees the host's address as the source.
	var from string
	accepted := make(chan error, 1)
	err = peer.serve(listening(func(a netip.AddrPort, ln net.Listener) error {
		go func() {
			c, err := ln.Accept()
			if err == nil {
				from = c.RemoteAddr().String()
				c.Close()
			}
			accepted <- err
		}()
		if err := guest.run(func() error { return dial(t.Context(), openTimeout, a) }); err != nil {
			return err
		}
		return <-accepted // before the listener closes
	}, peer), 80)
	if err != nil {
		t.Errorf("a machine to the world: %v", err)
	} else if !strings.HasPrefix(from, "198.51.100.1:") {
		t.Errorf("the world sees the source address %s", from)
	}
}

// listening passes f a listener at the endpoint, on the port after the served
// one, so that the test sees the connections.
func listening(f func(netip.AddrPort, net.Listener) error, e *endpoint) func(netip.AddrPort) error {
	return func(a netip.AddrPort) error {
		var ln net.Listener
		a = netip.AddrPortFrom(a.Addr(), a.Port()+1)
		if err := e.run(func() (err error) { ln, err = net.Listen("tcp", a.String()); return err }); err != nil {
			return err
		}
		defer ln.Close()
		return f(a, ln)
	}
}

// Apply restores rules, taps and bridges that were changed or removed by hand.
// It removes those that are no longer in the manifest.
func TestRepair(t *testing.T) {
	lab.Need(t, "nft", "ip")
	if !freshNamespace(t) {
		return
	}
	if f, err := os.OpenFile(tun, os.O_RDWR, 0); err != nil {
		// udev makes this node so that every user may open it.
		lab.Skip(t, "needs %s: %v", tun, err)
	} else {
		f.Close()
	}
	bridges := []Bridge{{Name: "lan", Address: prefix("10.91.0.1/24"), Policy: Policy{Isolated: true}, Taps: []Tap{{"t1"}, {"t2"}}}, {Name: "other", Address: prefix("10.92.0.1/24")}}
	n := new(Network)
	apply := func(want ...string) {
		t.Helper()
		changes, err := n.Apply(bridges, "")
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(changes, "; ")
		for _, w := range want {
			if !strings.Contains(all, w) {
				t.Errorf("the changes lack %q: %s", w, all)
			}
		}
		if len(want) == 0 && len(changes) > 0 {
			t.Errorf("an unneeded change: %s", all)
		}
	}
	run := func(argv ...string) string {
		t.Helper()
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
		return string(out)
	}
	apply("bridge lan made", "t1 plugged into lan", "rules are set")
	apply()
	before := run("nft", "list", "ruleset")
	run("nft", "flush", "chain", "inet", "meros", "forward")
	apply("restored")
	run("nft", "insert", "rule", "inet", "meros", "forward", "accept")
	apply("restored")
	if after := run("nft", "list", "ruleset"); after != before {
		t.Errorf("the rules are\n%s\nwant\n%s", after, before)
	}
	run("nft", "flush", "ruleset")
	apply("restored")
	run("ip", "link", "del", "t1")
	run("ip", "addr", "flush", "dev", "lan")
	apply("t1 plugged into lan", "lan has the address")
	run("ip", "link", "del", "other")
	apply("bridge other made")
	if out := run("bridge", "-d", "link", "show", "dev", "t1"); !strings.Contains(out, "isolated on") {
		t.Errorf("t1 is not isolated: %s", out)
	}
	bridges = bridges[:1]
	bridges[0].Taps = bridges[0].Taps[:1]
	apply("other removed", "t2 removed", "rules are set")
	f, err := OpenTap("t1")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := OpenTap("a-name-that-is-too-long"); err == nil {
		t.Error("OpenTap accepted a name of 23 bytes")
	}
	bridges[0].Name = "lo"
	if _, err := n.Apply(bridges, ""); err == nil || !strings.Contains(err.Error(), "an interface of that name") {
		t.Errorf("a bridge called lo: %v", err)
	}
}
