// This file holds the launcher, the half of the package that starts QEMU. It
// knows neither clients nor networks.

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

	"meros/runner/initrd"
	"meros/runner/qemu"
	"meros/runner/ssh"
)

// launcher starts the machines of a group as children of this process, waits
// for them and ends them. Only [SuperviseInner] and [CheckBoot] make one, so
// that no client of a [Group] starts QEMU by accident.
type launcher struct {
	*Group
	adapt   func(*Machine, *qemu.Machine) // completes a command line for the place that the launcher runs in
	hostPID func(pid int) (int, error)    // returns a child's process id in the host's namespace

	records  sync.Mutex    // held while a record is written or removed
	ends     sync.Map      // machine -> channel that is closed once the end of its process is recorded
	open     sync.Map      // machine -> open ssh connection
	forwards sync.Map      // machine, process and port -> port of the loopback interface
	idle     chan struct{} // receives a value when a machine has ended
}

func newLauncher(g *Group, adapt func(*Machine, *qemu.Machine), hostPID func(int) (int, error)) *launcher {
	return &launcher{Group: g, adapt: adapt, hostPID: hostPID, idle: make(chan struct{}, 1)}
}

// machineID returns the machine's id, machine-id(5). It makes the id at the first
// call and stores it.
func (l *launcher) machineID(machine string) (string, error) {
	file := filepath.Join(l.Keys, machine, "machine-id")
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

// keysDir is a directory in the guest with a file of authorized keys per user.
const keysDir = "etc/ssh/meros_authorized_keys"

// sshdConfig adds keysDir to the places where sshd looks, sshd_config(5).
const sshdConfig = "AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2 /" + keysDir + "/%u\n"

// secrets returns the files that a machine gets at boot. They are in no image.
func (l *launcher) secrets(m *Machine, h *ssh.Host) ([]initrd.File, error) {
	id, err := l.machineID(m.Name)
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

// firstFD is the first descriptor in QEMU after the standard ones. It is the
// machine's lock, and the taps follow.
const firstFD = 3

// argv returns the command line of the machine's QEMU, whose working directory is
// the machine's.
func (l *launcher) argv(m *Machine, accel []string, port int) ([]string, error) {
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
	l.adapt(m, &q)
	return q.Argv()
}

// runAs returns a user and group id for a QEMU that root starts. No other program
// uses the ids: systemd's list of id ranges (UIDS-GIDS) leaves them unassigned.
func runAs(group, machine string) string {
	h := sha256.Sum256([]byte(group + "\x00" + machine))
	id := 1879048192 + binary.BigEndian.Uint32(h[:])%(1<<28)
	return fmt.Sprintf("%d:%d", id, id)
}

// forward returns the port of the loopback interface that leads to a machine's
// port. It sets up the forwarding at the first call.
func (l *launcher) forward(ctx context.Context, machine string, port uint16) (int, error) {
	if !l.alive(machine) {
		return 0, l.notRunning(machine)
	}
	r, err := l.readRecord(machine)
	if err != nil {
		return 0, err
	}
	if port == 22 {
		return r.Port, nil
	}
	key := fmt.Sprintf("%s %d %d", machine, r.PID, port)
	if p, ok := l.forwards.Load(key); ok {
		return p.(int), nil
	}
	p, err := freePort()
	if err != nil {
		return 0, err
	}
	m, err := qemu.Dial(ctx, l.file(machine, socketFile))
	if err != nil {
		return 0, err
	}
	defer m.Close()
	// QMP has no command for this, only the human monitor has.
	said, err := m.Commands(ctx).HumanMonitorCommand(fmt.Sprintf("hostfwd_add net0 tcp:127.0.0.1:%d-:%d", p, port), nil)
	if err != nil {
		return 0, err
	}
	if said != "" {
		return 0, fmt.Errorf("forward port %d of %s: %s", port, machine, said)
	}
	l.forwards.Store(key, p)
	return p, nil
}
