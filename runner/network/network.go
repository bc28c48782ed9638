// Package network makes the private networks of a group of machines: bridges,
// taps, addresses and the packet filter. It changes the network namespace of
// the calling thread, which is never the host's own.
package network

import "net/netip"

// Bridge is a network that machines are plugged into.
type Bridge struct {
	Name    string       // of the interface, at most 15 characters
	Address netip.Prefix // the host's address on the bridge, with the network's prefix length
	Policy  Policy
	Taps    []Tap
}

// Tap is the host's end of a machine's interface.
type Tap struct{ Name string }

// Policy lists the destinations that the machines on a bridge may reach.
// Everything else is refused, over IPv4 and IPv6. Replies always pass.
type Policy struct {
	World     bool           // networks beyond the host, by network address translation
	HostPorts []uint16       // TCP ports of the host
	ICMP      bool           // echo requests to the host, and to the world if World is set
	Allowed   []netip.Prefix // networks on any side of the host
	Egress    []Flow         // limits World to these flows; empty sets no limit
	Ingress   []Flow         // flows from other bridges to machines on this one
	Isolated  bool           `json:"Apart"` // machines on this bridge do not see each other
}

// Flow is a network, optionally limited to a protocol and a port.
type Flow struct {
	Text     string       // as the user wrote it
	Network  netip.Prefix // an IPv4 network; the zero value matches any
	Protocol string       // "tcp", "udp" or "" for any
	Port     uint16       // 0 matches any
}

func (f Flow) overlaps(p netip.Prefix) bool { return !f.Network.IsValid() || f.Network.Overlaps(p) }

// matches returns the flow's conditions. field is the address to compare:
// "saddr" or "daddr".
func (f Flow) matches(field string) []match {
	var ms []match
	if f.Network.IsValid() {
		ms = append(ms, address(field, f.Network, 0))
	}
	if f.Protocol != "" {
		ms = append(ms, protocol(f.Protocol))
	}
	if f.Port != 0 {
		ms = append(ms, port(f.Port))
	}
	return ms
}
