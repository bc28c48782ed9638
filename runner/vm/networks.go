// This file turns a manifest's networks into bridges, addresses and ports. It
// changes nothing on the host.

package vm

import (
	"fmt"
	"net/netip"
	"slices"

	"meros/constellations"
	"meros/runner/hint"
	"meros/runner/network"
)

// Networks are the networks of a group, with the machines' interfaces and ports.
type Networks struct {
	Domain  string // name of the constellation
	Bridges []network.Bridge
	Hosts   []Host
	Ports   []Port
}

// Host is a machine's interface on a bridge.
type Host struct {
	Machine, Bridge, Tap, MAC string
	Address                   netip.Addr
}

// Port is a port of the host that is forwarded to a machine.
type Port struct {
	Listen  netip.AddrPort
	Machine string
	Port    uint16
}

// String returns the port in the form LISTEN->MACHINE:PORT.
func (p Port) String() string { return fmt.Sprintf("%s->%s:%d", p.Listen, p.Machine, p.Port) }

// NewNetworks returns the networks of a manifest. mac returns the hardware address
// of an interface. An interface without an address gets a free one, always the
// same for the same manifest.
func NewNetworks(m *constellations.Manifest, mac func(machine string, n constellations.Network) string) (*Networks, error) {
	ns := &Networks{Domain: m.Name}
	for _, b := range m.Bridges {
		if !b.AutoCreate {
			err := fmt.Errorf("bridge %s: auto_create: false asks for a bridge of the host, but machines only use bridges of their own", b.Name)
			return nil, hint.Add(err, "leave `auto_create` out")
		}
		bridge := network.Bridge{Name: b.Name, Address: netip.PrefixFrom(b.Host(), b.Subnet.Bits()), Policy: policy(b)}
		taken := map[netip.Addr]bool{bridge.Address.Addr(): true}
		for _, vm := range m.Machines {
			for _, n := range vm.Networks {
				if n.Bridge == b.Name {
					taken[n.IPAddr] = true
				}
			}
		}
		next := bridge.Address.Addr()
		for _, vm := range m.Machines {
			for _, n := range vm.Networks {
				if n.Bridge != b.Name {
					continue
				}
				bridge.Taps = append(bridge.Taps, network.Tap{Name: n.Label})
				h := Host{Machine: vm.Name, Bridge: b.Name, Tap: n.Label, MAC: mac(vm.Name, n), Address: n.IPAddr}
				for !h.Address.IsValid() {
					if next = next.Next(); !b.Subnet.Contains(next.Next()) {
						return nil, fmt.Errorf("bridge %s: %s has no address left for %s", b.Name, b.Subnet, vm.Name)
					}
					if !taken[next] {
						h.Address = next
					}
				}
				ns.Hosts = append(ns.Hosts, h)
			}
		}
		ns.Bridges = append(ns.Bridges, bridge)
	}
	for _, vm := range m.Machines {
		for _, f := range vm.Forwards {
			ns.Ports = append(ns.Ports, Port{f.Listen, vm.Name, f.Port})
		}
	}
	return ns, nil
}

func policy(b constellations.Bridge) network.Policy {
	p := network.Policy{Allowed: b.AllowedIPs, ICMP: b.AllowICMP, Isolated: b.PeersIsolated, Ingress: flows(b.Ingress)}
	if b.Policy == constellations.HostAccess {
		p.World, p.HostPorts, p.Egress = true, b.AllowedPorts, flows(b.Egress)
	}
	return p
}

func flows(fs []constellations.Flow) []network.Flow {
	var all []network.Flow
	for _, f := range fs {
		all = append(all, network.Flow{Text: f.String(), Network: f.Network, Protocol: f.Protocol, Port: f.Port})
	}
	return all
}

// uplinked reports whether any machine may reach the world.
func (ns *Networks) uplinked() bool {
	return slices.ContainsFunc(ns.Bridges, func(b network.Bridge) bool { return b.Policy.World || len(b.Policy.Allowed) > 0 })
}

// management returns a network that overlaps no bridge. The host reaches each
// machine by a private network with this prefix.
func (ns *Networks) management() netip.Prefix {
	for i := range 254 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(2 + i), 0}), 24) // starts with QEMU's own, 10.0.2.0/24
		if !slices.ContainsFunc(ns.Bridges, func(b network.Bridge) bool { return b.Address.Overlaps(p) }) {
			return p
		}
	}
	return netip.MustParsePrefix("192.0.2.0/24") // reserved for documentation, RFC 5737
}
