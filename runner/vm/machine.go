// This file describes a machine to boot. It starts nothing.

package vm

import "meros/constellations"

// Machine is a machine to boot. Paths are absolute.
type Machine struct {
	Name    string
	Arch    string // as in qemu-system-ARCH
	Memory  int64  // bytes
	CPUs    int
	KVM     constellations.KVM
	Display bool
	Extra   []string // arguments for QEMU
	User    string   // user name for logins
	Kernel  string
	Root    string // kernel argument "root=..."; "" stands for /dev/vda1
	Initrd  string
	Images  []string // a read-only chain of qcow2 images, the top one first
	Disks   []Disk   // further disks
	MAC     string
	NICs    []NIC
	Shares  []Share
	After   []string               // machines that must be ready before this one starts
	Ready   []constellations.Probe // probes that must succeed besides ssh

	// OnRunning says what a start does if the machine already runs. Old supervisors
	// know the name Again.
	OnRunning OnRunning `json:"Again"`
}

// OnRunning says what a start does with a machine that already runs.
type OnRunning string

const (
	Keep    OnRunning = ""        // it runs on
	Restart OnRunning = "restart" // it is shut down and started with the disk it had
	Reset   OnRunning = "reset"   // it is shut down and started from its image
)

// Disk is a further disk of a machine. Its content lasts until the machine is
// reset.
type Disk struct {
	Label string
	Image string // qcow2 image that a new disk is copied from
}

// NIC is a machine's interface on a bridge.
type NIC struct{ Tap, Model, MAC string }

// Share is a directory of the host that a machine mounts.
type Share struct {
	Source   string // absolute path
	Tag      string // name by which the guest mounts it
	ReadOnly bool
}

// files returns the files that the machine needs to start.
func (m *Machine) files() []string {
	all := append([]string{m.Kernel, m.Initrd}, m.Images...)
	for _, d := range m.Disks {
		all = append(all, d.Image)
	}
	return all
}
