// Package constellations reads the manifest of a group of machines ([Load]) and
// the lock beside it ([ReadLock]), which pins every download. It reads strictly:
// an unknown key is an error with its place. It does not know how a machine is
// built or started.
package constellations

import (
	"fmt"
	"net/netip"
	"strings"

	"meros/runner/hint"
)

// Manifest describes a constellation.
type Manifest struct {
	Name     string // of its directory
	Dir      string
	Bridges  []Bridge  // in the file's order
	Machines []Machine // in the file's order
}

// Policy says which addresses the machines on a bridge may reach.
type Policy string

const (
	HostAccess Policy = "host-access" // the host's allowed ports, and the world
	Isolated   Policy = "isolated"    // nothing beyond the bridge
)

// Bridge is a private network.
type Bridge struct {
	Name          string // at most 15 characters, as any interface
	Subnet        netip.Prefix
	Policy        Policy
	AllowedPorts  []uint16
	AllowedIPs    []netip.Prefix
	AllowICMP     bool
	PeersIsolated bool   // machines here cannot reach each other
	Egress        []Flow // the part of the world that they may reach; empty means all of it
	Ingress       []Flow // machines on other bridges that may reach machines here
	AutoCreate    bool
	Line          int
}

// KVM is a machine's use of hardware virtualization.
type KVM string

const (
	KVMAuto KVM = "auto" // where it works
	KVMOn   KVM = "on"   // fail where it does not work
	KVMOff  KVM = "off"
)

// Machine is one virtual machine.
type Machine struct {
	Name         string // also its host name, RFC 1123
	Arch         string // as in qemu-system-ARCH
	Distribution string
	Suite        string   // of Debian; of Alpine, its release
	Mirror       string   // base URL; "" means the host's own, or the default one
	Base         string   // path or URL of an existing image to start from, or ""
	BaseSHA256   string   // of a base from a URL; "" accepts the one in the lock
	Keys         []string // paths of further keys that sign the mirror
	Setup        string   // init system of Alpine: "openrc", "busybox", or "" to follow the packages
	Kernel       Kernel
	DiskSize     int64 // bytes; 0 means as large as needed
	Memory       int64 // bytes
	CPUs         int
	KVM          KVM
	Display      bool
	BuildFreeMB  int    // MiB free in the root file system, if DiskSize is 0
	Format       string // form of its export; "" means qcow2
	Compress     string // "zstd" or ""
	Disks        []Disk
	Networks     []Network
	Forwards     []Forward // ports of the host
	Mounts       []Mount
	DependsOn    []string // machines that must be ready before this one starts
	Ready        []Probe  // conditions for being ready, besides ssh
	QEMUArgs     []string // words of qemu_args, then of extra_args
	Packages     []string // sorted
	Bootstrap    string   // "meros" or "debootstrap"
	Hooks        Hooks
	User         string // the login user
	BootCheck    bool
	Line         int // in the manifest

	release string // as in the manifest
}

// Section returns the name of the lock's section that pins the machine's packages.
func (m *Machine) Section() Section { return Section{m.Distribution, m.Suite, m.Arch, m.Mirror} }

// Hooks says how a machine's hooks run.
type Hooks struct {
	Network bool
	In      string // HooksInSandbox or HooksInVM
}

// Where hooks run.
const (
	HooksInSandbox = "sandbox"
	HooksInVM      = "vm" // in the booted machine, before its init would start
)

// Disk is a further disk of a machine. It keeps its content until the machine is
// reset.
type Disk struct {
	Label      string // at most 16 bytes, of the file system too
	Size       int64  // bytes; 0 means the size of the base
	FSType     string // "" means that of the base
	MountPoint string // absolute, or ""
	Base       string // path or URL of an existing image to start from, or ""
	Partition  int    // of the base, to mount; 0 if the file system fills the disk
}

// Network is an interface of a machine.
type Network struct {
	Label  string // of the tap on the host, at most 15 characters
	Bridge string
	IPAddr netip.Addr // invalid: by DHCP
	Model  string     // of the device, as QEMU names it, or "virtio"
	MAC    string     // canonical lower case, or ""
}

// Mount is a directory of the host that a machine sees while it runs.
type Mount struct {
	Source   string // path: absolute, or relative to the root directory or to the constellation
	Target   string // path in the machine
	ReadOnly bool
}

// Probe is a condition for a machine to be ready. It has one of the two fields.
type Probe struct {
	TCP  uint16 // a port that accepts connections
	Exec string // a shell command that must end with status 0
}

// Host returns the host's address on the bridge, which is the first one.
func (b *Bridge) Host() netip.Addr { return b.Subnet.Masked().Addr().Next() }

// Bridge returns the bridge of that name, or nil.
func (m *Manifest) Bridge(name string) *Bridge {
	for i := range m.Bridges {
		if m.Bridges[i].Name == name {
			return &m.Bridges[i]
		}
	}
	return nil
}

// Machine returns the machine of that name.
func (m *Manifest) Machine(name string) (*Machine, error) {
	var names []string
	for i := range m.Machines {
		if m.Machines[i].Name == name {
			return &m.Machines[i], nil
		}
		names = append(names, m.Machines[i].Name)
	}
	return nil, hint.Add(fmt.Errorf("constellation %s has no machine %q", m.Name, name), "%s", suggest(name, names))
}

// suggest returns a hint for an unknown name: the most similar known name, or the
// list of known names.
func suggest(name string, known []string) string {
	if n := Nearest(name, known); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	if len(known) == 0 {
		return "none is defined yet"
	}
	return "there are: " + strings.Join(known, ", ")
}
