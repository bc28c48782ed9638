// Package network makes the private networks of a group of machines: bridges,
// taps, addresses and the packet filter, in the network namespace it is called
// in. It is never called in the host's own.
package network

import "net/netip"

// Bridge is a network that machines are plugged into.
type Bridge struct {
	Name    string       // of the interface, at most 15 characters
	Address netip.Prefix // the host's address there, with the length of the network's prefix
	Policy  Policy
	Taps    []Tap
}

// Tap is the plug of a machine's interface.
type Tap struct{ Name string }

// Policy is what the machines on a bridge may reach. What it does not name is
// refused, for IPv6 as for IPv4; addresses that answer are let through.
type Policy struct {
	World     bool           // beyond the host, by translation of addresses
	HostPorts []uint16       // of the host, TCP
	ICMP      bool           // the host, and the world if they may reach it
	Allowed   []netip.Prefix // wherever they are
	Egress    []Flow         // of the world only these; empty: all of it
	Ingress   []Flow         // of other bridges, who may reach machines here
	Isolated  bool           `json:"Apart"` // machines on this bridge do not see each other
}

// Flow is a network and, if they are not zero, a protocol and a port.
type Flow struct {
	Text     string       // as the user wrote it
	Network  netip.Prefix // of IPv4; invalid: any
	Protocol string       // "tcp", "udp" or ""
	Port     uint16
}

func (f Flow) overlaps(p netip.Prefix) bool { return !f.Network.IsValid() || f.Network.Overlaps(p) }

// matches are the flow's conditions; what is "saddr" or "daddr".
func (f Flow) matches(what string) []match {
	var ms []match
	if f.Network.IsValid() {
		ms = append(ms, address(what, f.Network, 0))
	}
	if f.Protocol != "" {
		ms = append(ms, protocol(f.Protocol))
	}
	if f.Port != 0 {
		ms = append(ms, port(f.Port))
	}
	return ms
}
