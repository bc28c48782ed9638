// This file makes the kernel's bridges, taps and rules equal to the wanted ones.
// It changes only what differs.

package network

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Network remembers the networks that Apply last made. The zero Network stands
// for a new namespace.
type Network struct {
	bridges []Bridge
	applied []string                    // the rules as text
	rules   map[string][]*nftables.Rule // by chain, as read back from the kernel
}

// Apply makes the namespace hold exactly these bridges, taps and policies, and
// returns one line for each change. It leaves alone everything that is already
// right, so that no packet is lost. The calling goroutine must be locked to a
// thread of the namespace. uplink is the interface to the world, or "".
func (n *Network) Apply(bridges []Bridge, uplink string) (changes []string, err error) {
	if err := prepare(); err != nil {
		return nil, err
	}
	if err := n.remove(bridges, &changes); err != nil {
		return changes, err
	}
	for _, b := range bridges {
		if err := b.apply(&changes); err != nil {
			return changes, fmt.Errorf("bridge %s: %w", b.Name, err)
		}
	}
	if err := n.filter(bridges, uplink, &changes); err != nil {
		return changes, fmt.Errorf("packet filter: %w", err)
	}
	n.bridges = slices.Clone(bridges)
	return changes, nil
}

// prepare sets the kernel parameters of the whole namespace.
func prepare() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	for file, value := range map[string]string{
		"ipv4/ip_forward":                   "1",
		"ipv6/conf/all/forwarding":          "0",
		"bridge/bridge-nf-call-iptables":    "0", // exists only if the module is loaded
		"bridge/bridge-nf-call-ip6tables":   "0",
		"ipv4/conf/all/rp_filter":           "1",
		"ipv4/conf/all/accept_source_route": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// remove deletes the bridges and taps that are no longer wanted.
func (n *Network) remove(wanted []Bridge, changes *[]string) error {
	keep := make(map[string]bool)
	for _, b := range wanted {
		keep[b.Name] = true
		for _, t := range b.Taps {
			keep[t.Name] = true
		}
	}
	for _, b := range n.bridges {
		var names []string
		for _, t := range b.Taps {
			names = append(names, t.Name)
		}
		for _, name := range append(names, b.Name) {
			if keep[name] {
				continue
			}
			l, err := netlink.LinkByName(name)
			if errors.As(err, new(netlink.LinkNotFoundError)) {
				continue
			}
			if err == nil {
				err = netlink.LinkDel(l)
			}
			if err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
			*changes = append(*changes, name+" removed")
		}
	}
	return nil
}

func (b Bridge) apply(changes *[]string) error {
	link, err := b.link(changes)
	if err != nil {
		return err
	}
	if err := b.address(link, changes); err != nil {
		return err
	}
	for _, t := range b.Taps {
		if err := b.plug(link, t, changes); err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	return nil
}

// link returns the bridge's own interface. It makes the bridge if necessary.
func (b Bridge) link(changes *[]string) (netlink.Link, error) {
	l, err := netlink.LinkByName(b.Name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = b.Name
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, err
		}
		*changes = append(*changes, "bridge "+b.Name+" made")
		l, err = netlink.LinkByName(b.Name)
	}
	if err != nil {
		return nil, err
	}
	if l.Type() != "bridge" {
		return nil, fmt.Errorf("an interface of that name exists, and is a %s", l.Type())
	}
	if l.Attrs().Flags&unix.IFF_UP == 0 {
		// All addresses are assigned, so duplicate detection only costs time.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+b.Name+"/accept_dad", []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		return l, netlink.LinkSetUp(l)
	}
	return l, nil
}

func (b Bridge) address(l netlink.Link, changes *[]string) error {
	have, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	found := false
	for _, a := range have {
		if a.IPNet.String() == b.Address.String() {
			found = true
			continue
		}
		if err := netlink.AddrDel(l, &a); err != nil {
			return err
		}
		*changes = append(*changes, fmt.Sprintf("%s lost the address %s", b.Name, a.IPNet))
	}
	if found {
		return nil
	}
	a, err := netlink.ParseAddr(b.Address.String())
	if err != nil {
		return err
	}
	*changes = append(*changes, fmt.Sprintf("%s has the address %s", b.Name, b.Address))
	return netlink.AddrAdd(l, a)
}

// plug attaches a tap to the bridge. It makes the tap if necessary.
func (b Bridge) plug(bridge netlink.Link, t Tap, changes *[]string) error {
	l, err := netlink.LinkByName(t.Name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		if err := addTap(t.Name); err != nil {
			return err
		}
		*changes = append(*changes, t.Name+" plugged into "+b.Name)
		l, err = netlink.LinkByName(t.Name)
	}
	if err != nil {
		return err
	}
	if l.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := netlink.LinkSetMaster(l, bridge); err != nil {
			return err
		}
	}
	port, err := netlink.LinkGetProtinfo(l)
	if err != nil || port.Isolated != b.Policy.Isolated {
		if err := netlink.LinkSetIsolated(l, b.Policy.Isolated); err != nil {
			return err
		}
	}
	if l.Attrs().Flags&unix.IFF_UP == 0 {
		return netlink.LinkSetUp(l)
	}
	return nil
}

// filter replaces the rules if they differ from the wanted ones.
func (n *Network) filter(bridges []Bridge, uplink string, changes *[]string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	wanted := rules(bridges, uplink)
	t := &nftables.Table{Name: table, Family: nftables.TableFamilyINet}
	have := current(c, t)
	same := n.rules != nil && reflect.DeepEqual(have, n.rules)
	if same && slices.Equal(texts(wanted), n.applied) {
		return nil
	}
	if n.rules != nil && !same {
		*changes = append(*changes, "the packet filter's rules had been changed, and are restored")
	} else {
		*changes = append(*changes, "the packet filter's rules are set")
	}
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	made := make(map[string]*nftables.Chain)
	for _, ch := range chains {
		policy := nftables.ChainPolicyDrop
		if ch.kind == nftables.ChainTypeNAT {
			policy = nftables.ChainPolicyAccept
		}
		made[ch.name] = c.AddChain(&nftables.Chain{Name: ch.name, Table: t, Type: ch.kind, Hooknum: ch.hook, Priority: ch.priority, Policy: &policy})
	}
	for _, r := range wanted {
		c.AddRule(&nftables.Rule{Table: t, Chain: made[r.chain], Exprs: r.exprs})
	}
	if err := c.Flush(); err != nil {
		return err
	}
	// A tracked connection may no longer be allowed. An error is ignored: the
	// kernel has no table until it tracks the first connection.
	if n.rules != nil {
		netlink.ConntrackTableFlush(netlink.ConntrackTable)
	}
	n.rules, n.applied = current(c, t), texts(wanted)
	return nil
}

func texts(rs []rule) []string {
	var all []string
	for _, r := range rs {
		all = append(all, r.chain+" "+r.text)
	}
	return all
}

// current returns the kernel's rules by chain. On error it returns nil, which
// forces a rewrite.
func current(c *nftables.Conn, t *nftables.Table) map[string][]*nftables.Rule {
	all := make(map[string][]*nftables.Rule)
	for _, ch := range chains {
		rs, err := c.GetRules(t, &nftables.Chain{Name: ch.name, Table: t})
		if err != nil {
			return nil
		}
		all[ch.name] = rs
	}
	return all
}

// String returns the rules that implement the policies, one a line, as nft(8)
// prints them.
func String(bridges []Bridge, uplink string) string {
	return strings.Join(texts(rules(bridges, uplink)), "\n") + "\n"
}
