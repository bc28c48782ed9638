// This file reads the bridges and the networks of a manifest.

package constellations

import (
	"net"
	"net/netip"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

func (l *loader) readBridges(n ast.Node) {
	ps, _ := l.mapping(n, "bridges")
	for _, p := range ps {
		b := Bridge{Name: p.key, Policy: HostAccess, AllowedPorts: []uint16{22, 80, 443}, AllowICMP: true, AutoCreate: true, Line: p.at.line}
		l.checkInterface(p.at, "bridge", p.key)
		l.bridges[p.key] = p.at
		subnet, egress, icmp := p.at, p.at, false
		l.fields(p.value, "a bridge", map[string]func(ast.Node){
			"subnet":        func(n ast.Node) { b.Subnet, subnet = l.prefix(n), placeOf(n) },
			"policy_type":   func(n ast.Node) { b.Policy = Policy(l.word(n, "policy", string(HostAccess), string(Isolated))) },
			"allowed_ports": func(n ast.Node) { b.AllowedPorts = l.ports(n) },
			"allowed_ips":   func(n ast.Node) { b.AllowedIPs = l.prefixes(n) },
			"allow_icmp":    func(n ast.Node) { b.AllowICMP, icmp = l.boolean(n), true },
			"peers":         func(n ast.Node) { b.PeersIsolated = l.word(n, "value of peers", "open", "isolated") == "isolated" },
			"egress":        func(n ast.Node) { b.Egress, egress = l.flows(n), placeOf(n) },
			"ingress":       func(n ast.Node) { b.Ingress = l.flows(n) },
			"auto_create":   func(n ast.Node) { b.AutoCreate = l.boolean(n) },
		})
		if !b.Subnet.IsValid() && subnet == p.at {
			b.Subnet = netip.MustParsePrefix("10.10.10.0/24") // the Python version's default
		}
		if b.Policy == Isolated && !icmp {
			b.AllowICMP = false
		}
		if b.Policy == Isolated && len(b.Egress) > 0 {
			l.addAt(egress, "use allowed_ips to let machines on an isolated bridge reach other addresses", "egress is for bridges with policy_type: host-access")
		}
		l.checkSubnet(b, subnet)
		l.m.Bridges = append(l.m.Bridges, b)
	}
}

func (l *loader) networks(n ast.Node) []Network {
	var ns []Network
	for _, e := range l.sequence(n) {
		x := Network{Model: "virtio"}
		at, labelAt, bridgeAt, ipAt, macAt := placeOf(e), placeOf(e), placeOf(e), placeOf(e), placeOf(e)
		l.fields(e, "a network", map[string]func(ast.Node){
			"label":   func(n ast.Node) { x.Label, labelAt = l.text(n), placeOf(n) },
			"bridge":  func(n ast.Node) { x.Bridge, bridgeAt = l.text(n), placeOf(n) },
			"ip_addr": func(n ast.Node) { x.IPAddr, ipAt = l.addr(n), placeOf(n) },
			"model":   func(n ast.Node) { x.Model = l.word(n, "network device", models...) },
			"mac":     func(n ast.Node) { x.MAC, macAt = l.mac(n), placeOf(n) },
		})
		if x.Label == "" {
			l.addAt(at, "the label names the interface on the bridge's side", "a network needs a label")
		} else {
			l.checkInterface(labelAt, "network label", x.Label)
		}
		l.checkNetwork(x, bridgeAt, ipAt, macAt)
		ns = append(ns, x)
	}
	return ns
}

func (l *loader) flows(n ast.Node) []Flow {
	var fs []Flow
	for _, e := range l.sequence(n) {
		s := l.text(e)
		if s == "" {
			continue // text has reported it
		}
		f, err := ParseFlow(s)
		if err != nil {
			l.addAt(placeOf(e), "write NETWORK, NETWORK:PORT or :PORT, optionally with /tcp or /udp", "%v", err)
			continue
		}
		fs = append(fs, f)
	}
	return fs
}

func (l *loader) forwards(n ast.Node) []Forward {
	var fs []Forward
	for _, e := range l.sequence(n) {
		f, err := ParseForward(l.text(e))
		if err != nil {
			l.addAt(placeOf(e), `write it as "127.0.0.1:8080->80"`, "%v", err)
			continue
		}
		fs = append(fs, f)
	}
	return fs
}

func (l *loader) mac(n ast.Node) string {
	s := l.text(n)
	if s == "" {
		return ""
	}
	hw, err := net.ParseMAC(s)
	switch {
	case err != nil || len(hw) != 6:
		l.addAt(placeOf(n), "write it as 52:54:00:12:34:56", "%q is not a MAC address", s)
	case hw[0]&1 != 0:
		l.addAt(placeOf(n), "the second digit must be even", "%s is a multicast address; an interface cannot have one", s)
	default:
		return hw.String()
	}
	return ""
}

func (l *loader) addr(n ast.Node) netip.Addr {
	s := l.text(n)
	if s == "" {
		return netip.Addr{}
	}
	host, _, _ := strings.Cut(s, "/") // some manifests have the prefix length here, too
	a, err := netip.ParseAddr(host)
	if err != nil {
		l.addAt(placeOf(n), "write it as 10.0.10.11", "%q is not an IP address", s)
	}
	return a
}

func (l *loader) prefix(n ast.Node) netip.Prefix {
	s := l.text(n)
	p, err := netip.ParsePrefix(s)
	if err != nil {
		l.addAt(placeOf(n), "write it as 10.0.10.0/24", "%q is not a subnet", s)
		return netip.Prefix{}
	}
	return p.Masked()
}

// prefixes reads networks or single addresses, in a list or separated by commas.
func (l *loader) prefixes(n ast.Node) []netip.Prefix {
	var ps []netip.Prefix
	for _, e := range l.sequence(n) {
		for _, s := range strings.FieldsFunc(l.text(e), func(r rune) bool { return r == ',' || r == ' ' }) {
			p, err := netip.ParsePrefix(s)
			if a, aerr := netip.ParseAddr(s); aerr == nil {
				p, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			switch {
			case err != nil:
				l.addAt(placeOf(e), "", "%q is neither an IP address nor a network", s)
			case !p.Addr().Is4():
				l.addAt(placeOf(e), "IPv6 works within a bridge and does not leave it", "%q is not an IPv4 address or network", s)
			default:
				ps = append(ps, p.Masked())
			}
		}
	}
	return ps
}

func (l *loader) ports(n ast.Node) []uint16 {
	var ps []uint16
	for _, e := range l.sequence(n) {
		if p := l.integer(e, 1, 65535); p > 0 {
			ps = append(ps, uint16(p))
		}
	}
	return ps
}
