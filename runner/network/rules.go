// This file translates policies into rules of nftables. It does not talk to the
// kernel.

package network

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// table names the nftables table that holds all rules. It is replaced as a
// whole, in one transaction.
const table = "meros"

// rule is one rule of a chain: as nft(8) prints it, and as the kernel takes it.
type rule struct {
	chain string
	text  string
	exprs []expr.Any
}

// match is a condition or a verdict of a rule.
type match struct {
	text  string
	exprs []expr.Any
}

func newRule(chain string, matches ...match) rule {
	r := rule{chain: chain}
	var words []string
	for _, m := range matches {
		words = append(words, m.text)
		r.exprs = append(r.exprs, m.exprs...)
	}
	r.text = strings.Join(words, " ")
	return r
}

// name pads an interface's name to the 16 bytes of IFNAMSIZ. The kernel compares
// as many bytes as it gets, so a shorter value would match a prefix.
func name(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

func meta(key expr.MetaKey, text string, data []byte) match {
	return match{text, []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}}
}

func from(iface string) match {
	return meta(expr.MetaKeyIIFNAME, fmt.Sprintf("iifname %q", iface), name(iface))
}
func to(iface string) match {
	return meta(expr.MetaKeyOIFNAME, fmt.Sprintf("oifname %q", iface), name(iface))
}

func ipv6() match {
	return meta(expr.MetaKeyNFPROTO, "meta nfproto ipv6", []byte{unix.NFPROTO_IPV6})
}

func protocol(p string) match {
	number := map[string]byte{"icmp": unix.IPPROTO_ICMP, "tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[p]
	return meta(expr.MetaKeyL4PROTO, "meta l4proto "+p, []byte{number})
}

// port matches a destination port. An earlier match has checked the protocol.
func port(n uint16) match {
	return match{fmt.Sprintf("th dport %d", n), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(n)},
	}}
}

// address compares an address of the packet, "saddr" or "daddr", with an IPv4 or
// IPv6 network.
func address(field string, p netip.Prefix, op expr.CmpOp) match {
	family, word, offset, length := byte(unix.NFPROTO_IPV4), "ip", uint32(12), uint32(4)
	if p.Addr().Is6() {
		family, word, offset, length = unix.NFPROTO_IPV6, "ip6", 8, 16
	}
	if field == "daddr" {
		offset += length
	}
	mask := make([]byte, length)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	sign := ""
	if op == expr.CmpOpNeq {
		sign = "!= "
	}
	p = p.Masked()
	return match{fmt.Sprintf("%s %s %s%s", word, field, sign, p), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: mask, Xor: make([]byte, length)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Addr().AsSlice()},
	}}
}

func source(p netip.Prefix) match      { return address("saddr", p, expr.CmpOpEq) }
func destination(p netip.Prefix) match { return address("daddr", p, expr.CmpOpEq) }
func notSource(p netip.Prefix) match   { return address("saddr", p, expr.CmpOpNeq) }

// single returns the network that holds only this address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// known matches packets of connections that were accepted before, and the ICMP
// errors about them.
func known() match {
	return match{"ct state established,related", []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}}
}

func accept() match { return match{"accept", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}} }
func drop() match   { return match{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}} }

// reject answers with an ICMP error, so that a guest's program fails at once
// instead of waiting.
func reject() match {
	return match{"reject with icmpx admin-prohibited", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}}
}

func masquerade() match { return match{"masquerade", []expr.Any{&expr.Masq{}}} }

// chains are the base chains. A filter chain drops packets that match no rule,
// the NAT chain accepts them.
var chains = []struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
}{
	{"input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter},
	{"forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter},
	{"postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource},
}

// rules translates the bridges' policies. uplink is the interface to the world,
// or "" without one.
func rules(bridges []Bridge, uplink string) []rule {
	all := []rule{
		newRule("input", from("lo"), accept()),
		newRule("input", known(), accept()),
		newRule("forward", known(), accept()),
	}
	for _, b := range bridges {
		all = append(all, b.input()...)
	}
	for _, b := range bridges {
		// A machine cannot use an address of another network.
		all = append(all, newRule("forward", from(b.Name), notSource(b.Address), drop()))
		// Frames within a bridge pass: some kernels show them to this table, but
		// isolation of the taps decides about them.
		all = append(all, newRule("forward", from(b.Name), to(b.Name), accept()))
		all = append(all, newRule("forward", from(b.Name), ipv6(), reject()))
		all = append(all, b.forward(bridges, uplink)...)
		all = append(all, newRule("forward", from(b.Name), reject()))
		if uplink != "" {
			all = append(all, newRule("postrouting", source(b.Address), to(uplink), masquerade()))
		}
	}
	return all
}

// input returns the rules for packets from the bridge's guests to the host. They
// reach the host only at its address on this bridge.
func (b Bridge) input() []rule {
	here := func(ms ...match) rule {
		return newRule("input", append([]match{from(b.Name), destination(single(b.Address.Addr()))}, ms...)...)
	}
	broadcast := destination(netip.MustParsePrefix("255.255.255.255/32"))
	rs := []rule{
		newRule("input", from(b.Name), broadcast, protocol("udp"), port(67), accept()), // DHCP, RFC 2131
		newRule("input", from(b.Name), notSource(b.Address), drop()),
		here(protocol("udp"), port(67), accept()),
		here(protocol("udp"), port(53), accept()),
		here(protocol("tcp"), port(53), accept()),
	}
	if b.Policy.ICMP {
		rs = append(rs, here(protocol("icmp"), accept()))
	}
	for _, p := range b.Policy.HostPorts {
		rs = append(rs, here(protocol("tcp"), port(p), accept()))
	}
	return append(rs, newRule("input", from(b.Name), reject()))
}

// forward returns the rules for packets from the bridge's guests to other
// networks.
func (b Bridge) forward(bridges []Bridge, uplink string) []rule {
	var rs []rule
	for _, p := range b.Policy.Allowed {
		rs = append(rs, newRule("forward", from(b.Name), destination(p), accept()))
	}
	for _, other := range bridges {
		for _, f := range other.Policy.Ingress {
			if other.Name != b.Name && f.overlaps(b.Address) {
				rs = append(rs, newRule("forward", append(append([]match{from(b.Name), to(other.Name)}, f.matches("saddr")...), accept())...))
			}
		}
	}
	if uplink == "" || !b.Policy.World {
		return rs
	}
	if !b.Policy.ICMP {
		rs = append(rs, newRule("forward", from(b.Name), to(uplink), protocol("icmp"), reject()))
	}
	if len(b.Policy.Egress) == 0 {
		return append(rs, newRule("forward", from(b.Name), to(uplink), accept()))
	}
	for _, f := range b.Policy.Egress {
		rs = append(rs, newRule("forward", append(append([]match{from(b.Name), to(uplink)}, f.matches("daddr")...), accept())...))
	}
	return rs
}
