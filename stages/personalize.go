// This file plans the layer that makes a machine different from others of the same
// content: its name, networks, user and mounts. All of it comes from the manifest.

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

// Personality holds the settings that the personalize stage writes into a machine.
// It is JSON in the parameter [ParamMachine].
type Personality struct {
	Hostname   string            `json:"hostname"`
	Hosts      map[string]string `json:"hosts,omitempty"`     // addresses of the constellation's machines by name
	Domain     string            `json:"domain,omitempty"`    // of their names; "" without networks
	Resolvers  []string          `json:"resolvers,omitempty"` // addresses of its name servers; none if it has a resolver of its own
	Interfaces []Interface       `json:"interfaces,omitempty"`
	User       string            `json:"user,omitempty"`   // login user besides root
	System     string            `json:"system,omitempty"` // "alpine"; "" is a system with systemd
	Mounts     []Mount           `json:"mounts,omitempty"`
	Base       bool              `json:"base,omitempty"`    // an image is the base of the system
	Modules    bool              `json:"modules,omitempty"` // Alpine only: link its directory of modules to that of a built kernel
}

// Mount is a line of the machine's fstab(5).
type Mount struct {
	What    string `json:"what"`
	Where   string `json:"where"`
	Type    string `json:"type"`
	Options string `json:"options"`
	Pass    int    `json:"pass,omitempty"` // in which fsck(8) pass it is checked, 0 is never
}

// mounts returns the machine's mounts, each after those above it. A directory of the
// host may be missing, and the boot does not wait for it. A disk is always there.
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

// MountTag returns the tag of a machine's nth mount.
func MountTag(n int) string { return fmt.Sprintf("meros%d", n) }

// Interface is one network interface, known by its MAC address.
type Interface struct {
	MAC     string   `json:"mac"`
	Address string   `json:"address,omitempty"` // with prefix length; empty is DHCP
	Gateway string   `json:"gateway,omitempty"` // of the default route
	Routes  []string `json:"routes,omitempty"`  // other networks, which Via leads to
	Via     string   `json:"via,omitempty"`
	DNS     string   `json:"dns,omitempty"`
}

// personalize returns the layer of the settings that differ between machines. They
// come from the manifest. A user's account, mounts and host names are merged with
// the accounts, fstab(5) and hosts(5) of the layers below. So the node reads those
// layers. ownHosts says that a layer may have its own hosts(5). own is the layer that
// describes the directories, where they may differ from the distribution's, or nil.
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
	gateway := false // one default route is enough
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
			if slices.Contains(n.Outputs, OutAccounts) { // a kernel's layer has none
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

// reaches reports whether vm is on the bridge.
func (pl *planner) reaches(vm *constellations.Machine, bridge string) bool {
	return slices.ContainsFunc(vm.Networks, func(n constellations.Network) bool { return n.Bridge == bridge })
}

// networkInterface returns the settings of one interface. *gateway says that another
// one has the default route.
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

// resolverPackages lists packages with a resolver that writes /etc/resolv.conf itself.
var resolverPackages = []string{"systemd-resolved", "resolvconf", "openresolv", "network-manager"}

// includes reports whether the files that are copied into vm have one of that name.
func (pl *planner) includes(vm *constellations.Machine, name string) bool {
	return slices.ContainsFunc(sources(vm), func(dir string) bool {
		_, err := os.Lstat(filepath.Join(pl.m.Dir, dir, Includes, name))
		return err == nil
	})
}

// resolvers returns the name servers of vm's networks. Those that resolve all names
// come first. It returns nil if a package or an included file sets the resolvers.
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

// MAC returns the hardware address of a machine's interface. If the manifest has
// none, the address follows from the names. It is then locally administered (IEEE
// 802, the second-lowest bit of the first byte) within the prefix that QEMU uses.
func MAC(constellation, machine string, n constellations.Network) string {
	if n.MAC != "" {
		return n.MAC
	}
	h := sha256.Sum256([]byte(constellation + "\x00" + machine + "\x00" + n.Label))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", h[0], h[1], h[2])
}

// ManagementMAC returns the hardware address of the interface that only ssh from the
// host uses. The manifest does not name this interface.
func ManagementMAC(constellation, machine string) string {
	h := sha256.Sum256([]byte("management\x00" + constellation + "\x00" + machine))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", h[0], h[1], h[2])
}
