// This file checks names in a manifest, and values of different machines and
// bridges against each other.

package constellations

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"meros/runner/hint"
)

// Patterns of names.
var (
	// packageName follows the Debian Policy Manual, section 5.6.1, and also accepts
	// the underscore, which names of Alpine have.
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+._-]+$`)
	suiteName   = regexp.MustCompile(`^[a-z][a-z0-9-]{1,40}$`)
	// releaseName matches a branch of Alpine, https://alpinelinux.org/releases.
	releaseName = regexp.MustCompile(`^(latest-stable|edge|v[0-9]+\.[0-9]+)$`)
	// userName matches the names that Debian's useradd(8) accepts.
	userName  = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	diskLabel = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,15}$`)
)

// maxInterface is IFNAMSIZ without the final NUL, netdevice(7).
const maxInterface = 15

func (l *loader) pattern(n ast.Node, what string, p *regexp.Regexp) string {
	s := l.text(n)
	if !p.MatchString(s) {
		l.addAt(placeOf(n), "", "%q cannot be a %s", s, what)
	}
	return s
}

func (l *loader) url(n ast.Node) string {
	s := strings.TrimRight(l.text(n), "/")
	u, err := url.Parse(s)
	if s != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "file" || u.Scheme != "file" && u.Host == "" || strings.ContainsAny(s, " \t\n[]")) {
		l.addAt(placeOf(n), "write it as http://ftp.debian.org/debian", "%q is not the URL of a mirror", s)
	}
	return s
}

// packages reads names of packages and adds them to have.
func (l *loader) packages(n ast.Node, have []string) []string {
	for _, e := range l.sequence(n) {
		for name := range strings.FieldsSeq(l.text(e)) {
			if !packageName.MatchString(name) {
				l.addAt(placeOf(e), "", "%q cannot be the name of a package", name)
			} else if !slices.Contains(have, name) {
				have = append(have, name)
			}
		}
	}
	slices.Sort(have)
	return have
}

// checkInterface checks the name of a network interface of the host.
func (l *loader) checkInterface(at place, what, name string) {
	bad := strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	})
	switch {
	case len(name) > maxInterface:
		l.addAt(at, fmt.Sprintf("%q would fit", name[:maxInterface]), "%s %q has %d characters, but the name of an interface has at most %d", what, name, len(name), maxInterface)
	case name == "" || name == "." || name == ".." || bad >= 0:
		l.addAt(at, "use letters, digits, hyphen, underscore and dot", "%s %q cannot be the name of an interface", what, name)
	}
}

func (l *loader) checkSubnet(b Bridge, at place) {
	if !b.Subnet.IsValid() {
		return
	}
	if !b.Subnet.Addr().Is4() {
		l.addAt(at, "machines on a bridge reach each other by IPv6 without a subnet", "subnet %s of bridge %s is not an IPv4 subnet", b.Subnet, b.Name)
		return
	}
	if free := b.Subnet.Addr().BitLen() - b.Subnet.Bits(); free < 2 {
		l.addAt(at, "", "subnet %s has no addresses for machines", b.Subnet)
	}
	for _, o := range l.m.Bridges {
		if o.Subnet.IsValid() && o.Subnet.Overlaps(b.Subnet) {
			l.addAt(at, "", "subnet %s of bridge %s overlaps %s of bridge %s in line %d", b.Subnet, b.Name, o.Subnet, o.Name, o.Line)
		}
	}
}

func (l *loader) checkNetwork(x Network, bridgeAt, ipAt, macAt place) {
	var bridge *Bridge
	var names []string
	for i := range l.m.Bridges {
		names = append(names, l.m.Bridges[i].Name)
		if l.m.Bridges[i].Name == x.Bridge {
			bridge = &l.m.Bridges[i]
		}
	}
	if bridge == nil {
		if x.Bridge == "" {
			l.addAt(bridgeAt, suggest("", names), "a network needs a bridge")
		} else {
			l.addAt(bridgeAt, suggest(x.Bridge, names), "there is no bridge %q", x.Bridge)
		}
		return
	}
	if !x.IPAddr.IsValid() || !bridge.Subnet.IsValid() {
		return
	}
	switch first := bridge.Subnet.Addr().Next(); {
	case !bridge.Subnet.Contains(x.IPAddr):
		l.addAt(ipAt, "", "address %s is outside %s, the subnet of bridge %s", x.IPAddr, bridge.Subnet, bridge.Name)
	case x.IPAddr == bridge.Subnet.Addr():
		l.addAt(ipAt, "", "%s is the address of the subnet itself", x.IPAddr)
	case x.IPAddr == first:
		l.addAt(ipAt, "", "%s is the bridge's own address", x.IPAddr)
	case x.IPAddr.Is4() && x.IPAddr == broadcast(bridge.Subnet):
		l.addAt(ipAt, "", "%s is the broadcast address of %s", x.IPAddr, bridge.Subnet)
	}
}

// broadcast returns the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// validate finds mistakes that need all machines to be known.
func (l *loader) validate() {
	labels, macs, addrs := make(map[string]string), make(map[string]string), make(map[netip.Addr]string)
	for _, vm := range l.m.Machines {
		for _, n := range vm.Networks {
			once(l, labels, n.Label, n.Label != "", vm, "network label")
			once(l, macs, n.MAC, n.MAC != "", vm, "MAC address")
			once(l, addrs, n.IPAddr, n.IPAddr.IsValid(), vm, "IP address")
		}
	}
	for _, b := range l.m.Bridges {
		if vm, ok := labels[b.Name]; ok {
			l.add(b.Line, 1, "", "bridge %s has the same name as a network label of machine %s", b.Name, vm)
		}
	}
	listens := make(map[netip.AddrPort]string)
	for _, vm := range l.m.Machines {
		for _, f := range vm.Forwards {
			once(l, listens, f.Listen, true, vm, "port of the host")
		}
	}
	l.checkDependencies()
}

// checkDependencies finds machines that depend on a missing machine, or on each
// other.
func (l *loader) checkDependencies() {
	const waits, done = 1, 2
	state := make(map[string]int)
	var visit func(vm *Machine) bool
	visit = func(vm *Machine) bool {
		switch state[vm.Name] {
		case waits:
			return false
		case done:
			return true
		}
		state[vm.Name] = waits
		for _, name := range vm.DependsOn {
			other, err := l.m.Machine(name)
			if err != nil {
				l.addAt(l.depends[vm.Name], hint.Of(err), "%v", err)
			} else if !visit(other) {
				l.addAt(l.depends[vm.Name], "", "machine %s depends on %s, which depends on it", vm.Name, name)
			}
		}
		state[vm.Name] = done
		return true
	}
	for i := range l.m.Machines {
		visit(&l.m.Machines[i])
	}
}

// once records that value belongs to vm, and a mistake if another machine has it.
func once[T comparable](l *loader, seen map[T]string, value T, set bool, vm Machine, what string) {
	if !set {
		return
	}
	if other, ok := seen[value]; ok {
		l.add(vm.Line, 1, "", "machine %s has the %s %v, but machine %s has it already", vm.Name, what, value, other)
		return
	}
	seen[value] = vm.Name
}
