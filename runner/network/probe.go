// This file checks the policies with real packets between endpoints of its own.
// It knows no machine.

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Timeouts for a packet on its way through one kernel. A packet that should
// arrive gets more time: a busy host delays it, and TCP repeats a lost SYN only
// after a second (RFC 6298).
const (
	timeout     = 700 * time.Millisecond
	openTimeout = 5 * time.Second
)

func (p Path) timeout() time.Duration {
	if p.Open {
		return openTimeout
	}
	return timeout
}

// Result is the outcome of trying a path.
type Result struct {
	Path
	Reached bool   `json:"reached"`
	Said    string `json:"said,omitempty"` // how the attempt ended
}

// OK reports whether the path is open or closed as the policies say.
func (r Result) OK() bool { return r.Open == r.Reached }

// Check tries every path of the matrix with real packets. They go from and to
// endpoints that Check attaches to the bridges like machines, and removes
// afterwards. used are the addresses of machines, which no endpoint takes. The
// calling goroutine must be locked to a thread of the networks' namespace.
func Check(ctx context.Context, bridges []Bridge, uplink string, used []netip.Addr) ([]Result, error) {
	ends := make(map[string][2]*endpoint)
	defer func() {
		for _, pair := range ends {
			for _, e := range pair {
				e.close()
			}
		}
	}()
	taken := make(map[netip.Addr]bool)
	for _, a := range used {
		taken[a] = true
	}
	for i, b := range bridges {
		var pair [2]*endpoint
		for j := range pair {
			a, err := free(b.Address, taken)
			if err == nil {
				pair[j], err = plugEndpoint(fmt.Sprintf("probe%d.%d", i, j), b, a)
			}
			ends[b.Name] = pair
			if err != nil {
				return nil, fmt.Errorf("plug a probe into %s: %w", b.Name, err)
			}
		}
	}
	for _, pair := range ends {
		for _, e := range pair {
			if err := e.settle(ctx); err != nil {
				return nil, err
			}
		}
	}
	var results []Result
	for _, p := range Matrix(bridges) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		r, err := p.try(ctx, ends, uplink)
		if err != nil {
			return nil, fmt.Errorf("try %s to %s: %w", p.From, p.To, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// free returns an unused address, searching from the end of the network.
func free(p netip.Prefix, taken map[netip.Addr]bool) (netip.Addr, error) {
	last := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(last)
	for a = a.Prev(); p.Contains(a) && a != p.Masked().Addr(); a = a.Prev() {
		if !taken[a] && a != p.Addr() {
			taken[a] = true
			return a, nil
		}
	}
	return a, fmt.Errorf("all addresses of %s are taken", p.Masked())
}

func (p Path) try(ctx context.Context, ends map[string][2]*endpoint, uplink string) (Result, error) {
	r := Result{Path: p}
	var err error
	switch {
	case p.kind == fromHost:
		err = ends[p.bridge][0].serve(func(to netip.AddrPort) error { return dial(ctx, p.timeout(), to) }, p.port)
	case p.kind == toPeer || p.kind == toOther:
		to := ends[p.bridge][1]
		err = to.serve(func(a netip.AddrPort) error {
			return ends[p.From][0].run(func() error { return dial(ctx, p.timeout(), a) })
		}, p.port)
	case p.kind == toOutside:
		seen, serr := p.leaves(ctx, ends[p.From][0], uplink)
		if r.Reached = seen; seen {
			r.Said = "left by " + uplink
		}
		return r, serr
	case p.port == 0:
		err = ends[p.From][0].run(func() error { return ping(p.timeout(), p.addr) })
	default:
		err = ends[p.From][0].run(func() error { return dial(ctx, p.timeout(), netip.AddrPortFrom(p.addr, p.port)) })
	}
	// A reset proves that the packet arrived: a closed port sends one, and so
	// does a relay without a service. The filter answers by ICMP instead.
	r.Reached = err == nil || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET)
	if err != nil {
		r.Said = err.Error()
	}
	return r, nil
}

func dial(ctx context.Context, wait time.Duration, a netip.AddrPort) error {
	d := net.Dialer{Timeout: wait}
	c, err := d.DialContext(ctx, "tcp", a.String())
	if err != nil {
		return err
	}
	return c.Close()
}

// leaves reports whether the first packet of a connection to the outside leaves
// by the uplink.
func (p Path) leaves(ctx context.Context, e *endpoint, uplink string) (bool, error) {
	if uplink == "" {
		return false, nil
	}
	l, err := net.InterfaceByName(uplink)
	if err != nil {
		return false, err
	}
	const all = 0x0300 // ETH_P_ALL in network byte order: only this one shows outgoing packets, packet(7)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Index}); err != nil {
		return false, err
	}
	wait := unix.NsecToTimeval(int64(p.timeout()))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.run(func() error { return dial(ctx, p.timeout(), netip.AddrPortFrom(p.addr, p.port)) })
	}()
	defer func() { cancel(); <-done }()
	b := make([]byte, 2048)
	for end := time.Now().Add(p.timeout()); time.Now().Before(end); {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, err
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if ok && ll.Pkttype == unix.PACKET_OUTGOING && begins(b[:n], netip.AddrPortFrom(p.addr, p.port)) {
			return true, nil
		}
	}
	return false, nil
}

// begins reports whether an IPv4 packet starts a TCP connection to an address.
// Late packets that close the connection of an earlier probe do not count.
func begins(packet []byte, to netip.AddrPort) bool {
	const syn, ack = 0x02, 0x10 // RFC 9293
	if len(packet) < 20 || packet[0]>>4 != 4 || packet[9] != unix.IPPROTO_TCP {
		return false
	}
	a, _ := netip.AddrFromSlice(packet[16:20])
	head := int(packet[0]&15) * 4
	if len(packet) < head+14 {
		return false
	}
	tcp := packet[head:]
	return netip.AddrPortFrom(a, uint16(tcp[2])<<8|uint16(tcp[3])) == to && tcp[13]&(syn|ack) == syn
}

// ping sends an ICMP echo request (RFC 792) and waits for the reply.
func ping(wait time.Duration, a netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: a.As4()}); err != nil {
		return err
	}
	limit := unix.NsecToTimeval(int64(wait))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	// Type 8, code 0, sum, identifier 0x4d45, sequence 0.
	if _, err := unix.Write(fd, []byte{8, 0, 0xaa, 0xba, 0x4d, 0x45, 0, 0}); err != nil {
		return err
	}
	b := make([]byte, 512)
	for end := time.Now().Add(wait); time.Now().Before(end); {
		n, err := unix.Read(fd, b)
		if err != nil {
			return fmt.Errorf("no answer: %w", err)
		}
		if head := int(b[0]&15) * 4; n >= head+8 {
			switch b[head] {
			case 0:
				return nil
			case 3:
				return errors.New("unreachable, by an ICMP error")
			}
		}
	}
	return errors.New("no answer")
}

// endpoint is a network namespace that is attached to a bridge.
type endpoint struct {
	address netip.Addr
	ns      *os.File
	link    string
	bridge  netlink.Link
}

func plugEndpoint(name string, b Bridge, a netip.Addr) (*endpoint, error) {
	e := &endpoint{address: a, link: name}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		e.ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(e.ns.Fd()))}
	e.bridge, err = netlink.LinkByName(b.Name)
	if err == nil {
		err = netlink.LinkAdd(veth)
	}
	if err == nil {
		err = netlink.LinkSetMaster(veth, e.bridge)
	}
	if err == nil {
		err = netlink.LinkSetIsolated(veth, b.Policy.Isolated)
	}
	if err == nil {
		err = netlink.LinkSetUp(veth)
	}
	if err == nil {
		err = e.run(func() error { return configure(a, b.Address) })
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// forgetNeighbour removes an address from the kernel's neighbour table. An entry
// with an earlier endpoint's hardware address would stay for a second (locktime,
// arp(7)). An entry without an answer would delay the next request by a second
// (retrans_time).
func forgetNeighbour(bridge netlink.Link, a netip.Addr) error {
	known, err := netlink.NeighList(bridge.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, n := range known {
		if n.IP.Equal(a.AsSlice()) {
			if err := netlink.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	return nil
}

// settle waits until the bridge forwards the endpoint's packets, and removes the
// endpoint from the neighbour table. The kernel checks new links once a second
// (linkwatch).
func (e *endpoint) settle(ctx context.Context) error {
	for {
		l, err := netlink.LinkByName(e.link)
		if err != nil {
			return err
		}
		if l.Attrs().OperState == netlink.OperUp {
			return forgetNeighbour(e.bridge, e.address)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// configure gives the endpoint's own interface its address and default route.
func configure(a netip.Addr, host netip.Prefix) error {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(netip.PrefixFrom(a, host.Bits()).String())
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.AddrAdd(l, addr), netlink.LinkSetUp(l)); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IP(host.Addr().AsSlice())})
}

// serve listens on the endpoint's address while f runs.
func (e *endpoint) serve(f func(netip.AddrPort) error, port uint16) error {
	a := netip.AddrPortFrom(e.address, port)
	var l net.Listener
	if err := e.run(func() (err error) { l, err = net.Listen("tcp", a.String()); return err }); err != nil {
		return err
	}
	defer l.Close()
	return f(a)
}

// run calls f in the endpoint's namespace.
func (e *endpoint) run(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(e.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func (e *endpoint) close() {
	if e == nil {
		return
	}
	if l, err := netlink.LinkByName(e.link); err == nil {
		netlink.LinkDel(l)
	}
	e.ns.Close()
}

// onThread calls f on a thread of its own, which ends with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}
