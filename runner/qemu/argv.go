// Package qemu writes the command line of qemu-system and speaks QMP, its
// machine protocol. It starts no machine and keeps no state.
package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"meros/runner/arch"
	"meros/runner/hint"
)

// Machine holds everything that a command line depends on. Paths are the host's;
// relative ones start at QEMU's working directory.
type Machine struct {
	Name    string
	Arch    string // as in qemu-system-ARCH
	Accel   []string
	Memory  int64 // bytes
	CPUs    int
	Display string // unix socket that serves the screen by VNC, RFC 6143; "" for a machine without one
	Kernel  string
	Initrd  string
	Append  string     // added to the kernel command line after the console and the root
	Disks   [][]string // each a chain of qcow2 files, the writable one first
	Console string     // log file of the serial console
	Serial  string     // unix socket of the serial console, or ""
	Bulk    string     // unix socket of the port named [BulkPort], or ""
	Ports   []Port     // further virtio ports
	Clock   string     // start of the guest's clock in UTC, ISO 8601 without a zone; "" is now
	Once    bool       // a reboot ends QEMU
	QMP     string     // unix socket of the machine protocol
	PIDFile string     // QEMU removes it when it exits normally
	Network Network
	NICs    []NIC
	Shares  []Share
	RunAs   string   // "UID:GID" that QEMU switches to once everything is open, or ""
	Extra   []string // further arguments
}

// BulkPort names a virtio port between host and guest, for copies that need no
// encryption. Each side reads the bytes that the other one writes.
const BulkPort = "meros.bulk"

// Network is the network device by which the host reaches the machine. It is
// QEMU's user networking. Unless Open is set, it only forwards one port of the
// loopback interface to the guest's ssh.
type Network struct {
	SSHPort int // 0 forwards no port
	MAC     string
	Subnet  string // "" is QEMU's default, 10.0.2.0/24
	Open    bool   // the guest may reach everything that QEMU may reach
}

// Port is a virtio port whose output goes to a file.
type Port struct{ Name, File string }

// Share is a directory of the host that the guest may mount, as virtiofs.
type Share struct {
	Socket string // unix socket of its virtiofsd
	Tag    string // name by which the guest mounts it
}

// NIC is a further network device on a tap.
type NIC struct {
	FD    int    // descriptor of the open tap in QEMU
	Model string // as QEMU names it, or "virtio"
	MAC   string
}

// Argv returns the command line.
func (m Machine) Argv() ([]string, error) {
	a, err := arch.Find(m.Arch)
	if err != nil {
		return nil, err
	}
	b := a.Board
	if len(m.Disks) == 0 {
		return nil, errors.New("the machine has no disk")
	}
	argv := []string{
		"qemu-system-" + m.Arch, "-nodefaults", "-no-user-config", "-name", m.Name, "-machine", b.Machine,
	}
	if m.Once {
		argv = append(argv, "-no-reboot")
	}
	if m.Display != "" {
		card := "virtio-gpu-" + b.Bus
		if b.Machine == "q35" {
			card = "virtio-vga"
		}
		argv = append(argv, "-vnc", "unix:"+escape(m.Display), "-device", card, "-device", "qemu-xhci", "-device", "usb-tablet", "-device", "usb-kbd")
	} else {
		argv = append(argv, "-display", "none")
	}
	argv = append(argv, m.Accel...)
	argv = append(argv, "-m", strconv.FormatInt(m.Memory>>20, 10), "-smp", strconv.Itoa(m.CPUs))
	if len(m.Shares) > 0 {
		// virtiofsd writes into the guest's memory, so that must be shared.
		argv = append(argv, "-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%dM,share=on", m.Memory>>20), "-machine", "memory-backend=memory")
	}
	if m.Kernel != "" {
		argv = append(argv, "-kernel", m.Kernel, "-append", strings.TrimSpace("console="+b.Console+" root=/dev/vda1 rw "+m.Append))
		if m.Initrd != "" {
			argv = append(argv, "-initrd", m.Initrd)
		}
	}
	console := "file,id=console,append=on,path=" + escape(m.Console)
	if m.Serial != "" {
		console = "socket,id=console,server=on,wait=off,path=" + escape(m.Serial) + ",logappend=on,logfile=" + escape(m.Console)
	}
	argv = append(argv,
		"-chardev", console, "-serial", "chardev:console",
		"-chardev", "socket,id=qmp,server=on,wait=off,path="+escape(m.QMP), "-mon", "chardev=qmp,mode=control")
	if m.Bulk != "" {
		argv = append(argv, "-device", "virtio-serial-"+b.Bus, "-chardev", "socket,id=bulk,server=on,wait=off,path="+escape(m.Bulk),
			"-device", "virtserialport,chardev=bulk,name="+BulkPort)
	}
	if len(m.Ports) > 0 {
		argv = append(argv, "-device", "virtio-serial-"+b.Bus)
		for i, p := range m.Ports {
			argv = append(argv, "-chardev", fmt.Sprintf("file,id=port%d,path=%s", i, escape(p.File)), "-device", fmt.Sprintf("virtserialport,chardev=port%d,name=%s", i, p.Name))
		}
	}
	if m.Clock != "" {
		argv = append(argv, "-rtc", "base="+m.Clock)
	}
	if m.PIDFile != "" {
		argv = append(argv, "-pidfile", m.PIDFile)
	}
	for i, chain := range m.Disks {
		nodes, err := blockdevs(fmt.Sprintf("disk%d", i), chain)
		if err != nil {
			return nil, err
		}
		argv = append(argv, nodes...)
		argv = append(argv, "-device", fmt.Sprintf("virtio-blk-%s,drive=disk%d-0", b.Bus, i))
	}
	net := fmt.Sprintf("virtio-net-%s,netdev=net0", b.Bus)
	if m.Network.MAC != "" {
		net += ",mac=" + m.Network.MAC
	}
	user := "user,id=net0"
	if !m.Network.Open {
		user += ",restrict=on"
	}
	if m.Network.Subnet != "" {
		user += ",net=" + m.Network.Subnet
	}
	if m.Network.SSHPort > 0 {
		user += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:22", m.Network.SSHPort)
	}
	argv = append(argv, "-netdev", user, "-device", net)
	for i, n := range m.NICs {
		model := n.Model
		if model == "virtio" {
			model = "virtio-net-" + b.Bus
		}
		argv = append(argv, "-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i+1, n.FD), "-device", fmt.Sprintf("%s,netdev=net%d,mac=%s", model, i+1, n.MAC))
	}
	for i, s := range m.Shares {
		argv = append(argv, "-chardev", fmt.Sprintf("socket,id=share%d,path=%s", i, escape(s.Socket)),
			"-device", fmt.Sprintf("vhost-user-fs-%s,chardev=share%d,tag=%s", b.Bus, i, s.Tag))
	}
	privileges := "deny"
	if m.RunAs != "" {
		// elevateprivileges=deny would refuse the system calls of -runas.
		privileges = "allow"
		argv = append(argv, "-runas", m.RunAs)
	}
	argv = append(argv, "-device", "virtio-rng-"+b.Bus,
		"-sandbox", "on,obsolete=deny,elevateprivileges="+privileges+",spawn=deny,resourcecontrol=deny")
	return append(argv, m.Extra...), nil
}

// escape doubles the commas of an option's value, qemu(1).
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// blockdevs describes a chain of images node by node, so that QEMU ignores the
// file names in the images' headers.
func blockdevs(name string, chain []string) ([]string, error) {
	var argv []string
	for i := len(chain) - 1; i >= 0; i-- {
		readOnly := i > 0
		file := map[string]any{"driver": "file", "node-name": fmt.Sprintf("%s-%d-file", name, i), "filename": chain[i], "read-only": readOnly}
		format := map[string]any{"driver": "qcow2", "node-name": fmt.Sprintf("%s-%d", name, i), "file": file["node-name"], "read-only": readOnly, "backing": nil}
		if i < len(chain)-1 {
			format["backing"] = fmt.Sprintf("%s-%d", name, i+1)
		}
		if !readOnly {
			file["discard"], format["discard"] = "unmap", "unmap"
		}
		for _, node := range []map[string]any{file, format} {
			b, err := json.Marshal(node)
			if err != nil {
				return nil, err
			}
			argv = append(argv, "-blockdev", string(b))
		}
	}
	return argv, nil
}

// parallelTCG is the accelerator that emulates each processor in its own thread.
const parallelTCG = "tcg,thread=multi"

// Accel chooses between hardware virtualization and emulation, and returns the
// reason in one line. mode is auto, on or off. machine and host are
// architectures by QEMU's names. Hardware virtualization needs an accessible
// /dev/kvm and the processor flag svm or vmx: without the flag, guests hang.
func Accel(mode, machine, host, cpuinfo string, kvmOpens error) (args []string, reason string, err error) {
	cpu := "max"
	if a, err := arch.Find(machine); err == nil {
		cpu = a.Board.CPU
	}
	tcg := []string{"-accel", parallelTCG, "-cpu", cpu}
	why, fix := "", ""
	switch {
	case mode == "off":
		return tcg, "kvm is off in the manifest: software emulation", nil
	case machine != host && (machine != "i386" || host != "x86_64"): // one has the other's instructions
		why = "the machine is " + machine + ", the host " + host
	case errors.Is(kvmOpens, fs.ErrPermission):
		why, fix = "no permission to open /dev/kvm", "`usermod --append --groups kvm USER` gives a user access"
	case kvmOpens != nil:
		why = kvmOpens.Error()
	case host == "x86_64" && !hasFlag(cpuinfo, "svm") && !hasFlag(cpuinfo, "vmx"):
		why = "/dev/kvm exists, but the processor has neither svm nor vmx"
	default:
		return []string{"-accel", "kvm", "-cpu", "host"}, "hardware virtualization (KVM)", nil
	}
	if mode == "on" {
		err := fmt.Errorf("kvm is on in the manifest, but %s", why)
		return nil, "", hint.Add(err, "%s", cmp.Or(fix, "`kvm: auto` emulates the processor where KVM does not work"))
	}
	if fix != "" {
		why += "; " + fix
	}
	return tcg, "software emulation: " + why, nil
}

// HostAccel is [Accel] for this host and a machine with this many processors.
func HostAccel(ctx context.Context, mode, machine string, cpus int) (args []string, reason string, err error) {
	f, kvmErr := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if kvmErr == nil {
		f.Close()
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, "", err
	}
	args, reason, err = Accel(mode, machine, arch.Host(), string(cpuinfo), kvmErr)
	if err != nil || cpus == 1 || args[1] != parallelTCG {
		return args, reason, err
	}
	// If the program is missing, starting it reports that.
	version, _ := exec.CommandContext(ctx, "qemu-system-"+machine, "--version").Output()
	if stale(string(version)) {
		args[1] = "tcg,thread=single"
		reason += fmt.Sprintf("; its %d processors take turns, because QEMU before %d.%d may run stale code in parallel; `cpus: 1` is faster", cpus, fresh[0], fresh[1])
	}
	return args, reason, nil
}

func hasFlag(cpuinfo, flag string) bool {
	for line := range strings.Lines(cpuinfo) {
		if strings.HasPrefix(line, "flags") {
			for f := range strings.FieldsSeq(line) {
				if f == flag {
					return true
				}
			}
			return false
		}
	}
	return false
}
