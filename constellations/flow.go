// This file reads the values of egress, ingress and ports.

package constellations

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Flow is a destination or an origin of packets: a network and, if they are not
// zero, a protocol and a port.
type Flow struct {
	Network  netip.Prefix // invalid: any
	Protocol string       // "tcp", "udp" or ""
	Port     uint16
}

// ParseFlow parses [NETWORK][:PORT][/PROTOCOL] with an IPv4 network, such as
// 10.1.0.0/16, 192.0.2.7:5432, :443/tcp or 10.0.0.0/8:53/udp. A port without a
// protocol is a TCP port.
func ParseFlow(s string) (Flow, error) {
	var f Flow
	rest := s
	for _, p := range []string{"tcp", "udp"} {
		if before, ok := strings.CutSuffix(rest, "/"+p); ok {
			f.Protocol, rest = p, before
		}
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		port, err := parsePort(rest[i+1:])
		if err != nil {
			return f, fmt.Errorf("%q: %w", s, err)
		}
		if f.Port, rest = port, rest[:i]; f.Protocol == "" {
			f.Protocol = "tcp"
		}
	}
	switch {
	case rest == "" && s != "":
	case strings.Contains(rest, "/"):
		p, err := netip.ParsePrefix(rest)
		if err != nil || !p.Addr().Is4() {
			return f, fmt.Errorf("%q is not an IPv4 network", rest)
		}
		f.Network = p.Masked()
	default:
		a, err := netip.ParseAddr(rest)
		if err != nil || !a.Is4() {
			return f, fmt.Errorf("%q is not an IPv4 address", rest)
		}
		f.Network = netip.PrefixFrom(a, 32)
	}
	return f, nil
}

// parsePort parses a port from 1 to 65535, without sign or leading zero.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", s)
	}
	return uint16(n), nil
}

// String returns the flow as [ParseFlow] reads it.
func (f Flow) String() string {
	var b strings.Builder
	if f.Network.IsValid() {
		b.WriteString(strings.TrimSuffix(f.Network.String(), "/32"))
	}
	if f.Port != 0 {
		fmt.Fprintf(&b, ":%d", f.Port)
	}
	if f.Protocol != "" {
		b.WriteString("/" + f.Protocol)
	}
	return b.String()
}

// Forward is a port of the host that leads to a machine.
type Forward struct {
	Listen netip.AddrPort // of the host
	Port   uint16         // of the machine, TCP
}

// ParseForward parses [ADDRESS:]PORT[->PORT]. Without an address the host listens
// on 127.0.0.1. Without a second port the machine's port is the same.
func ParseForward(s string) (Forward, error) {
	listen, port, two := strings.Cut(s, "->")
	f := Forward{Listen: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)}
	if strings.Contains(listen, ":") {
		a, err := netip.ParseAddrPort(listen)
		if err != nil || a.Port() == 0 {
			return f, fmt.Errorf("%q is not an address and port of the host", listen)
		}
		f.Listen = a
	} else {
		p, err := parsePort(listen)
		if err != nil {
			return f, err
		}
		f.Listen = netip.AddrPortFrom(f.Listen.Addr(), p)
	}
	if f.Port = f.Listen.Port(); two {
		p, err := parsePort(port)
		if err != nil {
			return f, err
		}
		f.Port = p
	}
	return f, nil
}

// String returns the forward as [ParseForward] reads it.
func (f Forward) String() string { return fmt.Sprintf("%s->%d", f.Listen, f.Port) }
