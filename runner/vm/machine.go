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
	User    string   // who logs in
	Kernel  string
	Root    string // what the kernel is told of the root file system, "root=..."; "" is that it is on /dev/vda1
	Initrd  string
	Images  []string // a chain of qcow2 images, the top one first; none is written to
	Disks   []Disk   // further ones
	MAC     string
	NICs    []NIC
	Shares  []Share
	After   []string               // machines that are ready before this one starts
	Ready   []constellations.Probe // what makes it ready besides ssh

	// OnRunning is what a start does first if the machine already runs.
	OnRunning OnRunning `json:"Again"` // a supervisor of an older build knows it by this name
}

// OnRunning is what a start does with a machine that already runs.
type OnRunning string

const (
	Keep    OnRunning = ""        // it runs on
	Restart OnRunning = "restart" // it is shut down and started with the disk it had
	Reset   OnRunning = "reset"   // it is shut down and started from its image
)

// Disk is a further disk of a machine. What is written to it stays until the
// machine is reset.
type Disk struct {
	Label string
	Image string // qcow2 image that it is a copy of when it is new
}

// NIC is an interface of a machine on a bridge.
type NIC struct{ Tap, Model, MAC string }

// Share is a directory of the host that a machine sees.
type Share struct {
	Source   string // absolute path
	Tag      string // by which the guest mounts it
	ReadOnly bool
}

// files are what the machine cannot start without.
func (m *Machine) files() []string {
	all := append([]string{m.Kernel, m.Initrd}, m.Images...)
	for _, d := range m.Disks {
		all = append(all, d.Image)
	}
	return all
}
