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
	"fmt"
	"os"
	"path/filepath"

	"meros/runner/ssh"
)

// Group is a constellation's machines as a client sees them: it asks their
// supervisor and reads their files. It cannot start a machine in this process;
// only [SuperviseInner] and [CheckBoot] can.
type Group struct {
	Name  string // of the constellation
	State string // directory of the machines' run records, throw-away disks and console logs
	Keys  string // directory of the keys and ids that outlast a run
	SSH   string // file of the key that logs in to all machines
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

// Lock keeps other processes from starting or stopping machines of the group.
// busy is called once if it has to wait.
func (g *Group) Lock(ctx context.Context, busy func()) (unlock func(), err error) {
	if err := os.MkdirAll(g.State, 0o700); err != nil {
		return nil, err
	}
	return waitLock(ctx, filepath.Join(g.State, ".lock"), busy)
}
