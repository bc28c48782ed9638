package stages

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"meros/constellations"
	"meros/graph"
)

// Names of the plan and the step, see names.go.
const (
	ParamMachine = "machine" // JSON of a [Personality]

	InAccounts    = "accounts"    // of a layer below
	InDirectories = "directories" // of the layers below
)

const personalizeRevision = 7

// Personality is what the personalize stage writes, as JSON in its parameter
// "machine".
type Personality struct {
	Hostname   string            `json:"hostname"`
	Hosts      map[string]string `json:"hosts,omitempty"`     // address by name, of the constellation's machines
	Domain     string            `json:"domain,omitempty"`    // that their names are in; "" without networks
	Resolvers  []string          `json:"resolvers,omitempty"` // addresses of its name servers, if it has no resolver of its own
	Interfaces []Interface       `json:"interfaces,omitempty"`
	User       string            `json:"user,omitempty"`   // login user besides root
	System     string            `json:"system,omitempty"` // "alpine"; "" is a system with systemd
	Mounts     []Mount           `json:"mounts,omitempty"`
	Base       bool              `json:"base,omitempty"`    // the system is of an image
	Modules    bool              `json:"modules,omitempty"` // of a kernel that was built lie where Alpine has none
}

// Mount is a line of the machine's fstab(5).
type Mount struct {
	What    string `json:"what"`
	Where   string `json:"where"`
	Type    string `json:"type"`
	Options string `json:"options"`
	Pass    int    `json:"pass,omitempty"` // when it is checked
}

// mounts are what a machine mounts, what is below another mount after it. A
// directory of the host may be missing, and nobody waits for it; a disk is there.
func mounts(vm *constellations.Machine) []Mount {
	var all []Mount
	for i, m := range vm.Mounts {
		options := "rw,nofail"
		if m.ReadOnly {
			options = "ro,nofail"
		}
		all = append(all, Mount{What: MountTag(i), Where: m.Target, Type: "virtiofs", Options: options})
	}
	for i, d := range vm.Disks {
		m := Mount{What: diskSource(i, d), Where: d.MountPoint, Type: cmp.Or(d.FSType, "auto"), Options: "defaults"}
		switch {
		case d.FSType == "swap":
			m.Where = "none"
		case d.MountPoint == "":
			continue
		case strings.HasPrefix(d.FSType, "ext") || d.FSType == "vfat":
			m.Pass = 2
		}
		all = append(all, m)
	}
	slices.SortStableFunc(all, func(a, b Mount) int { return strings.Compare(a.Where, b.Where) })
	return all
}

// MountTag is the tag of a machine's nth mount.
func MountTag(n int) string { return fmt.Sprintf("meros%d", n) }

// Interface is one network interface, known by its MAC address.
type Interface struct {
	MAC     string   `json:"mac"`
	Address string   `json:"address,omitempty"` // with prefix length; empty is DHCP
	Gateway string   `json:"gateway,omitempty"` // of the default route
	Routes  []string `json:"routes,omitempty"`  // other networks that Via leads to
	Via     string   `json:"via,omitempty"`
	DNS     string   `json:"dns,omitempty"`
}

// personalize is the layer of what differs between machines but not in
// substance. All of it comes from the manifest; only a user's account, the file
// systems to mount and hosts that others may have named need to know what
// accounts, fstab(5) and hosts(5) are below, and where directories may be others
// than a distribution's, how they are: own is the layer that says so, or nil.
func (pl *planner) personalize(pm *Machine, section *constellations.SectionLock, below []*graph.Node, own *graph.Node, ownHosts bool) *graph.Node {
	vm := pm.Machine
	p := Personality{Hostname: vm.Name, Hosts: make(map[string]string), Base: vm.Base != ""}
	for _, other := range pl.m.Machines {
		for _, n := range other.Networks {
			if n.IPAddr.IsValid() && p.Hosts[other.Name] == "" && pl.reaches(vm, n.Bridge) {
				p.Hosts[other.Name] = n.IPAddr.String()
			}
		}
	}
	if vm.Distribution == "alpine" {
		p.System, p.Modules = vm.Distribution, pm.Built != nil && pm.Built.Modules
	}
	gateway := false // one of them is enough
	for _, n := range vm.Networks {
		p.Interfaces = append(p.Interfaces, pl.networkInterface(vm, n, &gateway))
	}
	if len(vm.Networks) > 0 {
		p.Domain = pl.m.Name
		p.Resolvers = pl.resolvers(vm)
	}
	p.Mounts = mounts(vm)
	node := &graph.Node{
		Stage: "personalize", Revision: personalizeRevision, Name: pl.name(vm, "personalize"),
		Outputs: []string{OutLayer},
	}
	if vm.User != "root" {
		p.User = vm.User
	}
	if vm.User != "root" || len(p.Mounts) > 0 || p.Base || ownHosts {
		for _, n := range below {
			if slices.Contains(n.Outputs, OutAccounts) { // a kernel's headers have none
				node.Inputs = append(node.Inputs, graph.Input{Name: InAccounts, Node: n, Output: OutAccounts})
			}
		}
	}
	if own != nil {
		node.Inputs = append(node.Inputs, graph.Input{Name: InDirectories, Node: own, Output: OutDirectories})
	} else if vm.Base != "" {
		node.Inputs = append(node.Inputs, trees(InLower, below)...)
	}
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // it holds nothing that does not marshal
	}
	node.Params = []graph.Param{{Name: ParamMachine, Value: string(b)}, epoch(section)}
	return pl.plan.Add(node)
}

// reaches tells whether vm is on the bridge.
func (pl *planner) reaches(vm *constellations.Machine, bridge string) bool {
	return slices.ContainsFunc(vm.Networks, func(n constellations.Network) bool { return n.Bridge == bridge })
}

func (pl *planner) networkInterface(vm *constellations.Machine, n constellations.Network, gateway *bool) Interface {
	i := Interface{MAC: MAC(pl.m.Name, vm.Name, n)}
	b := pl.m.Bridge(n.Bridge)
	if b == nil || !n.IPAddr.IsValid() {
		return i
	}
	i.Address, i.DNS = netip.PrefixFrom(n.IPAddr, b.Subnet.Bits()).String(), b.Host().String()
	switch {
	case b.Policy == constellations.HostAccess && !*gateway:
		i.Gateway, *gateway = i.DNS, true
	case b.Policy == constellations.Isolated:
		for _, p := range b.AllowedIPs {
			i.Routes, i.Via = append(i.Routes, p.String()), i.DNS
		}
	}
	return i
}

// resolverPackages bring a resolver that writes /etc/resolv.conf itself.
var resolverPackages = []string{"systemd-resolved", "resolvconf", "openresolv", "network-manager"}

// includes tells whether a file is among those that are copied into vm.
func (pl *planner) includes(vm *constellations.Machine, name string) bool {
	return slices.ContainsFunc(sources(vm), func(dir string) bool {
		_, err := os.Lstat(filepath.Join(pl.m.Dir, dir, Includes, name))
		return err == nil
	})
}

// resolvers are the name servers of vm's networks, those first that know the
// world; none where somebody else says which there are.
func (pl *planner) resolvers(vm *constellations.Machine) []string {
	for _, p := range vm.Packages {
		if slices.Contains(resolverPackages, p) {
			return nil
		}
	}
	if pl.includes(vm, "etc/resolv.conf") {
		return nil
	}
	var all []string
	for _, policy := range []constellations.Policy{constellations.HostAccess, constellations.Isolated} {
		for _, n := range vm.Networks {
			if b := pl.m.Bridge(n.Bridge); b != nil && b.Policy == policy && len(all) < 3 { // MAXNS, resolv.conf(5)
				all = append(all, b.Host().String())
			}
		}
	}
	return all
}

// MAC is the hardware address of a machine's interface: the manifest's, or
// one that follows from the names, locally administered (IEEE 802, the
// second-lowest bit of the first byte) within the prefix QEMU uses.
func MAC(constellation, machine string, n constellations.Network) string {
	if n.MAC != "" {
		return n.MAC
	}
	h := sha256.Sum256([]byte(constellation + "\x00" + machine + "\x00" + n.Label))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", h[0], h[1], h[2])
}

// ManagementMAC is the address of the interface that only ssh from the host
// comes through: none that the manifest speaks of.
func ManagementMAC(constellation, machine string) string {
	h := sha256.Sum256([]byte("management\x00" + constellation + "\x00" + machine))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", h[0], h[1], h[2])
}
