// Package constellations holds what a user writes: the manifest of a group of
// machines ([Load]) and the lock beside it that pins what they are made of
// ([ReadLock]). It reads strictly: a key nobody knows is an error with its
// place, not a setting that silently does nothing.
package constellations

import (
	"fmt"
	"net/netip"
	"strings"
)

// Manifest is a constellation as its manifest.yml describes it.
type Manifest struct {
	Name     string // of its directory
	Dir      string
	Bridges  []Bridge  // in the file's order
	Machines []Machine // in the file's order
}

// Policy is what the guests of a bridge may reach.
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
	PeersIsolated bool   // machines here do not see each other
	Egress        []Flow // what of the world they may reach; empty: all
	Ingress       []Flow // of other bridges, who may reach machines here
	AutoCreate    bool
	Line          int
}

// KVM says whether a machine uses hardware virtualization.
type KVM string

const (
	KVMAuto KVM = "auto" // where it works
	KVMOn   KVM = "on"   // or fail
	KVMOff  KVM = "off"
)

// Machine is one virtual machine.
type Machine struct {
	Name         string // also its host name, RFC 1123
	Arch         string // as in qemu-system-ARCH
	Distribution string
	Suite        string   // of Debian; of Alpine, its release
	Mirror       string   // base URL; "" is the host's own, or the default one
	Base         string   // path or URL of an image that it is made of, or ""
	BaseSHA256   string   // of a URL's; "": as it was when the lock was written
	Keys         []string // paths of further keys that sign what is in the mirror
	Setup        string   // of Alpine: "openrc", "busybox", or "" for what its packages bring
	Kernel       Kernel
	DiskSize     int64 // bytes; 0 is as large as needed
	Memory       int64 // bytes
	CPUs         int
	KVM          KVM
	Display      bool
	BuildFreeMB  int    // MiB free in the root file system, where DiskSize is 0
	Format       string // what it is exported as; "" is qcow2
	Compress     string // "zstd" or ""
	Disks        []Disk
	Networks     []Network
	Forwards     []Forward // ports of the host
	Mounts       []Mount
	DependsOn    []string // machines that are ready before this one starts
	Ready        []Probe  // besides ssh, what makes it ready
	QEMUArgs     []string // words of qemu_args, then of extra_args
	Packages     []string // sorted
	Bootstrap    string   // "meros" or "debootstrap"
	Hooks        Hooks
	User         string // who logs in
	BootCheck    bool
	Line         int // in the manifest

	release string // that the manifest names
}

// Section names what pins the machine's packages in a lock.
func (m *Machine) Section() Section { return Section{m.Distribution, m.Suite, m.Arch, m.Mirror} }

// Hooks is how a machine's hooks run.
type Hooks struct {
	Network bool
	In      string // HooksInSandbox or HooksInVM
}

// Where hooks run.
const (
	HooksInSandbox = "sandbox"
	HooksInVM      = "vm" // in the machine itself, booted, before its init would start
)

// Disk is a further disk of a machine. It keeps what is written to it until
// the machine is reset.
type Disk struct {
	Label      string // at most 16 bytes, of the file system too
	Size       int64  // bytes; 0 is that of the image it is made of
	FSType     string // "" is what the image has
	MountPoint string // absolute, or ""
	Base       string // path or URL of an image that it is made of, or ""
	Partition  int    // of the image, that is mounted; 0 if the file system fills the disk
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

// Probe is what shows that a machine is ready: one of the two.
type Probe struct {
	TCP  uint16 // a port that accepts connections
	Exec string // a line for its shell that ends with status 0
}

// Host is the host's address on the bridge: the first one.
func (b *Bridge) Host() netip.Addr { return b.Subnet.Masked().Addr().Next() }

// Bridge finds a bridge by its name, or returns nil.
func (m *Manifest) Bridge(name string) *Bridge {
	for i := range m.Bridges {
		if m.Bridges[i].Name == name {
			return &m.Bridges[i]
		}
	}
	return nil
}

// Machine finds a machine by its name.
func (m *Manifest) Machine(name string) (*Machine, error) {
	var names []string
	for i := range m.Machines {
		if m.Machines[i].Name == name {
			return &m.Machines[i], nil
		}
		names = append(names, m.Machines[i].Name)
	}
	return nil, fmt.Errorf("constellation %s has no machine %q%s", m.Name, name, suggest(name, names))
}

// suggest is ", did you mean ...?" or a list of what there is.
func suggest(name string, known []string) string {
	if n := Nearest(name, known); n != "" {
		return fmt.Sprintf(" (did you mean %q?)", n)
	}
	if len(known) == 0 {
		return " (there are none)"
	}
	return " (there are: " + strings.Join(known, ", ") + ")"
}
