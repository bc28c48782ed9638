// This file derives from the policies which network may reach which. It sends no
// packet.

package network

import (
	"fmt"
	"net/netip"
	"slices"
)

// Path is a source, a destination and whether the policies connect them.
type Path struct {
	From string `json:"from"` // a bridge, which stands for its machines, or "host"
	To   string `json:"to"`
	Open bool   `json:"open"`

	kind   pathKind
	bridge string // the other bridge
	addr   netip.Addr
	port   uint16 // 0 stands for an ICMP echo request
}

type pathKind int

const (
	toPeer    pathKind = iota // another machine on the bridge
	toHost                    // the host, at one of its bridge addresses
	toOther                   // a machine on another bridge
	toOutside                 // an address beyond the host
	fromHost                  // the host to a machine
)

// An address and a port that stand for all others: one for documentation
// (RFC 5737) and the port of the discard protocol (RFC 863).
var (
	anywhere  = netip.MustParseAddr("203.0.113.99")
	otherPort = uint16(9)
)

// Matrix returns all paths that the policies open or close. From each bridge
// they lead to its own machines, the host, other bridges and the world. From the
// host they lead to each bridge.
func Matrix(bridges []Bridge) []Path {
	var paths []Path
	for _, b := range bridges {
		host := b.Address.Addr()
		paths = append(paths,
			Path{b.Name, "each other", !b.Policy.Isolated, toPeer, b.Name, netip.Addr{}, 22},
			Path{"host", b.Name, true, fromHost, b.Name, netip.Addr{}, 22},
			Path{b.Name, "host, ping", b.Policy.ICMP, toHost, "", host, 0})
		for _, p := range b.Policy.HostPorts {
			paths = append(paths, Path{b.Name, fmt.Sprintf("host, port %d", p), true, toHost, "", host, p})
		}
		if !slices.Contains(b.Policy.HostPorts, otherPort) {
			paths = append(paths, Path{b.Name, "host, other ports", false, toHost, "", host, otherPort})
		}
		for _, o := range bridges {
			if o.Name == b.Name {
				continue
			}
			paths = append(paths,
				Path{b.Name, o.Name, b.reaches(o), toOther, o.Name, netip.Addr{}, 22},
				Path{b.Name, "host by its address on " + o.Name, false, toHost, "", o.Address.Addr(), 22})
		}
		paths = append(paths, b.outside(bridges)...)
	}
	return paths
}

// reaches reports whether machines on b may reach port 22 of machines on o.
func (b Bridge) reaches(o Bridge) bool {
	for _, f := range o.Policy.Ingress {
		if f.overlaps(b.Address) && f.Protocol != "udp" && (f.Port == 0 || f.Port == 22) {
			return true
		}
	}
	return slices.ContainsFunc(b.Policy.Allowed, o.Address.Overlaps)
}

func (b Bridge) allows(a netip.Addr) bool {
	return slices.ContainsFunc(b.Policy.Allowed, func(p netip.Prefix) bool { return p.Contains(a) })
}

// outside returns the paths beyond the host.
func (b Bridge) outside(bridges []Bridge) []Path {
	var paths []Path
	path := func(name string, open bool, a netip.Addr, port uint16) {
		paths = append(paths, Path{b.Name, name, open, toOutside, "", a, port})
	}
	for _, p := range b.Policy.Allowed {
		if slices.ContainsFunc(bridges, func(o Bridge) bool { return o.Address.Overlaps(p) }) {
			continue // another bridge
		}
		path(p.String(), true, sample(p), 443)
	}
	for _, f := range b.Policy.Egress {
		if f.Protocol != "udp" && b.Policy.World {
			a, port := anywhere, f.Port
			if f.Network.IsValid() {
				a = sample(f.Network)
			}
			if port == 0 {
				port = 443
			}
			path("world, "+f.Text, true, a, port)
		}
	}
	open := b.Policy.World && len(b.Policy.Egress) == 0 || b.allows(anywhere)
	name := "world"
	if len(b.Policy.Egress) > 0 {
		name = "world, all else"
		open = open || b.Policy.World && slices.ContainsFunc(b.Policy.Egress, func(f Flow) bool {
			return (!f.Network.IsValid() || f.Network.Contains(anywhere)) && f.Protocol != "udp" && (f.Port == 0 || f.Port == otherPort)
		})
	}
	path(name, open, anywhere, otherPort)
	return paths
}

// sample returns an address of the network: the only one, or the first.
func sample(p netip.Prefix) netip.Addr {
	if p.IsSingleIP() {
		return p.Addr()
	}
	return p.Masked().Addr().Next()
}
