// Package vm boots groups of machines, tells how they are and shuts them
// down.
//
// A group has a supervisor: two processes, of which the inner one owns the
// namespaces of networks and processes that everything of the group is in. It
// ends with its last machine, and everything with it, however it ends. The host's
// own networks are never changed.
//
// What is known of a machine is in its state directory: the QEMU process holds
// a lock there for as long as it lives, which the kernel gives up with the
// process, however it ends. So a machine's state is asked of the living
// process, never remembered.
package vm

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"meros/constellations"
	"meros/runner/initrd"
	"meros/runner/qemu"
	"meros/runner/ssh"
)

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
	Again   Again                  // what is done first if it runs
}

// Again says what is done with a machine that runs when it is brought up.
type Again string

const (
	Leave   Again = ""        // it goes on
	Restart Again = "restart" // it is shut down and started with the disk it had
	Reset   Again = "reset"   // it is shut down and started from its image
)

// Disk is a further disk of a machine. What is written to it stays until the
// machine is reset.
type Disk struct {
	Label string
	Image string // qcow2 image that it is a copy of when it is new
}

// NIC is an interface of a machine on a bridge.
type NIC struct{ Tap, Model, MAC string }

// Group is where a constellation's machines keep what is theirs.
type Group struct {
	Name  string // of the constellation
	State string // directory: what there is while a machine runs, and its last console log
	Keys  string // directory: what stays with a machine: keys and machine id
	SSH   string // file: the key that logs in to all machines

	inside  *inside    // of a supervisor; nil where machines are only looked at or checked
	records sync.Mutex // held while a record is written or removed
	ends    sync.Map   // by machine that this process started, a channel: closed when its end is written down
}

// Files of a machine's state directory.
const (
	recordFile  = "machine.json"
	lockFile    = "lock"
	diskFile    = "disk.qcow2"
	initrdFile  = "initrd"
	consoleFile = "console.log"
	qemuLogFile = "qemu.log"
	socketFile  = "qmp.sock"
	serialFile  = "serial.sock"
	bulkFile    = "bulk.sock"
	bulkLock    = "bulk.lock" // held by who uses it
	screenFile  = "vnc.sock"
	knownFile   = "known_hosts"
	controlFile = "ssh" // socket of an open connection
	pidFile     = "qemu.pid"
)

func (g *Group) dir(machine string) string { return filepath.Join(g.State, machine) }

func (g *Group) file(machine, name string) string { return filepath.Join(g.State, machine, name) }

// Console is the file that holds what a machine last wrote to its console.
func (g *Group) Console(machine string) string { return g.file(machine, consoleFile) }

// host is how a machine is reached.
func (g *Group) host(machine, user string, port int) (*ssh.Host, error) {
	ours, err := ssh.EnsureKey(g.SSH, "meros")
	if err != nil {
		return nil, err
	}
	theirs, err := ssh.EnsureKey(filepath.Join(g.Keys, machine, "ssh_host_ed25519_key"), machine)
	if err != nil {
		return nil, err
	}
	return &ssh.Host{Name: machine + "." + g.Name, Address: fmt.Sprintf("127.0.0.1:%d", port), User: user, Key: ours, HostKey: theirs}, nil
}

// machineID is the machine's id, machine-id(5), made once.
func (g *Group) machineID(machine string) (string, error) {
	file := filepath.Join(g.Keys, machine, "machine-id")
	b, err := os.ReadFile(file)
	if err == nil && len(strings.TrimSpace(string(b))) == 32 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", err
	}
	var id [16]byte
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a version 4 UUID
	text := hex.EncodeToString(id[:])
	return text, os.WriteFile(file, []byte(text+"\n"), 0o600)
}

// keysDir holds, in the guest, one file of authorized keys for each user.
const keysDir = "etc/ssh/meros_authorized_keys"

// sshdConfig makes sshd_config(5) look there as well.
const sshdConfig = "AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2 /" + keysDir + "/%u\n"

// secrets are the files that a machine gets when it boots and that are in no
// image.
func (g *Group) secrets(m *Machine, h *ssh.Host) ([]initrd.File, error) {
	id, err := g.machineID(m.Name)
	if err != nil {
		return nil, err
	}
	private, err := h.HostKey.Private()
	if err != nil {
		return nil, err
	}
	return []initrd.File{
		{Name: "etc/machine-id", Mode: 0o444, Data: []byte(id + "\n")},
		{Name: "etc/ssh/ssh_host_ed25519_key", Mode: 0o600, Data: private},
		{Name: "etc/ssh/ssh_host_ed25519_key.pub", Mode: 0o644, Data: h.HostKey.Public()},
		{Name: "etc/ssh/sshd_config.d/00-meros.conf", Mode: 0o644, Data: []byte(sshdConfig)},
		{Name: keysDir + "/" + m.User, Mode: 0o644, Data: h.Key.Public()},
	}, nil
}

// firstFD is the descriptor of the first open file that QEMU gets besides the
// standard ones: its lock. Its taps follow.
const firstFD = 3

// argv is the command line of the machine's QEMU, started in its directory.
func (g *Group) argv(m *Machine, accel []string, port int) ([]string, error) {
	q := qemu.Machine{
		Name: m.Name, Arch: m.Arch, Accel: accel, Memory: m.Memory, CPUs: m.CPUs,
		Kernel: m.Kernel, Initrd: initrdFile, Disks: [][]string{append([]string{diskFile}, m.Images...)},
		Console: consoleFile, QMP: socketFile, PIDFile: pidFile, Network: qemu.Network{SSHPort: port, MAC: m.MAC}, Extra: m.Extra,
	}
	for _, d := range m.Disks {
		q.Disks = append(q.Disks, []string{d.file()})
	}
	if m.Root != "" {
		q.Append = m.Root
	}
	if m.Display {
		q.Display = screenFile
	}
	for i, s := range m.Shares {
		q.Shares = append(q.Shares, qemu.Share{Socket: shareSocket(i), Tag: s.Tag})
	}
	for i, n := range m.NICs {
		q.NICs = append(q.NICs, qemu.NIC{FD: firstFD + 1 + i, Model: n.Model, MAC: n.MAC})
	}
	if g.inside == nil {
		q.Once = true
	} else {
		q.Serial, q.Bulk = serialFile, bulkFile
		if subnet := g.inside.management(); subnet.IsValid() {
			q.Network.Subnet = subnet.String()
		}
		if os.Geteuid() == 0 && mapsMany() {
			q.RunAs = runAs(g.Name, m.Name)
		}
	}
	return q.Argv()
}

// runAs is a user that no other program has, where QEMU would be root: from a
// range that systemd's list of ids leaves to nobody (UIDS-GIDS).
func runAs(group, machine string) string {
	h := sha256.Sum256([]byte(group + "\x00" + machine))
	id := 1879048192 + binary.BigEndian.Uint32(h[:])%(1<<28)
	return fmt.Sprintf("%d:%d", id, id)
}

// Lock keeps other processes from starting or stopping machines of the group.
// busy is called once if it has to wait.
func (g *Group) Lock(ctx context.Context, busy func()) (unlock func(), err error) {
	if err := os.MkdirAll(g.State, 0o700); err != nil {
		return nil, err
	}
	return waitLock(ctx, filepath.Join(g.State, ".lock"), busy)
}
