// Package vm boots groups of machines, returns their status and shuts them down.
//
// The package has two halves. Clients use a [Group]: it sends requests to the
// group's supervisor and reads the machines' files. The launcher starts QEMU; only
// the supervisor ([Supervise]) and the boot check ([CheckBoot]) have one.
//
// A supervisor is two processes. The inner one owns the network and process
// namespaces of the whole group. It exits with its last machine. When it exits,
// even if it is killed, everything in the namespaces ends. The host's own networks
// never change.
//
// A machine's files are in its state directory. Its QEMU process holds a lock
// there, which the kernel releases when the process ends, for any reason. So meros
// asks the process for its state and never trusts a stored one.
package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"meros/runner/ssh"
)

// Group is a constellation's machines as a client sees them: it asks their
// supervisor and reads their files. It cannot start a machine in this process;
// only [SuperviseInner] and [CheckBoot] can.
type Group struct {
	Name  string // name of the constellation
	State string // directory of the machines' run records, throw-away disks and console logs
	Keys  string // directory of the keys and ids that outlast a run
	SSH   string // file of the key that logs in to all machines
}

// Names of the files in a machine's state directory.
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
	bulkLock    = "bulk.lock" // held by the process that uses bulk.sock
	screenFile  = "vnc.sock"
	knownFile   = "known_hosts"
	controlFile = "ssh" // socket by which ssh(1) shares a connection
	pidFile     = "qemu.pid"
)

func (g *Group) dir(machine string) string { return filepath.Join(g.State, machine) }

func (g *Group) file(machine, name string) string { return filepath.Join(g.State, machine, name) }

// Console returns the log file of a machine's console. It holds the current or the
// last run.
func (g *Group) Console(machine string) string { return g.file(machine, consoleFile) }

// host returns the address and the keys for logins to a machine.
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

// Lock prevents other processes from starting or stopping machines of the group
// until unlock is called. If it has to wait, it calls busy once.
func (g *Group) Lock(ctx context.Context, busy func()) (unlock func(), err error) {
	if err := os.MkdirAll(g.State, 0o700); err != nil {
		return nil, err
	}
	return waitLock(ctx, filepath.Join(g.State, ".lock"), busy)
}
