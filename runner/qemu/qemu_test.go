// This file tests command lines, the choice of accelerator and QMP.

package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-qemu/qmp/raw"

	"meros/bench/lab"
	"meros/runner/arch"
)

func machine() Machine {
	return Machine{
		Name: "web", Arch: "x86_64", Accel: []string{"-accel", "tcg"}, Memory: 1 << 30, CPUs: 2,
		Kernel: "/k", Initrd: "/i", Disks: [][]string{{"top.qcow2", "/base.qcow2"}},
		Console: "con,sole", QMP: "qmp", PIDFile: "pid", Network: Network{SSHPort: 2222, MAC: "52:54:00:00:00:01"}, Extra: []string{"-no-shutdown"},
	}
}

func TestArgv(t *testing.T) {
	argv, err := machine().Argv()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-name", "web", "-machine", "q35", "-display", "none", "-accel", "tcg",
		"-m", "1024", "-smp", "2", "-kernel", "/k", "-append", "console=ttyS0 root=/dev/vda1 rw", "-initrd", "/i",
		"-chardev", "file,id=console,append=on,path=con,,sole", "-serial", "chardev:console",
		"-chardev", "socket,id=qmp,server=on,wait=off,path=qmp", "-mon", "chardev=qmp,mode=control", "-pidfile", "pid",
		"-blockdev", `{"driver":"file","filename":"/base.qcow2","node-name":"disk0-1-file","read-only":true}`,
		"-blockdev", `{"backing":null,"driver":"qcow2","file":"disk0-1-file","node-name":"disk0-1","read-only":true}`,
		"-blockdev", `{"discard":"unmap","driver":"file","filename":"top.qcow2","node-name":"disk0-0-file","read-only":false}`,
		"-blockdev", `{"backing":"disk0-1","discard":"unmap","driver":"qcow2","file":"disk0-0-file","node-name":"disk0-0","read-only":false}`,
		"-device", "virtio-blk-pci,drive=disk0-0",
		"-netdev", "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:2222-:22", "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01",
		"-device", "virtio-rng-pci", "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-no-shutdown",
	}
	if got := strings.Join(argv, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	m := machine()
	m.Arch, m.Disks = "riscv64", [][]string{{"a"}, {"b"}}
	argv, err = m.Argv()
	if all := strings.Join(argv, " "); err != nil || !strings.HasPrefix(all, "qemu-system-riscv64 ") || !strings.Contains(all, "drive=disk1-0") {
		t.Errorf("%s, %v", all, err)
	}
	m = machine()
	m.Ports, m.Clock, m.Network = []Port{{"meros.log", "a,b"}}, "2026-01-02T03:04:05", Network{Open: true}
	argv, err = m.Argv()
	for _, part := range []string{"-device virtio-serial-pci -chardev file,id=port0,path=a,,b -device virtserialport,chardev=port0,name=meros.log", "-rtc base=2026-01-02T03:04:05", "-netdev user,id=net0 -device"} {
		if all := strings.Join(argv, " "); err != nil || !strings.Contains(all, part) {
			t.Errorf("the command line lacks %s: %s, %v", part, all, err)
		}
	}
	// The parts that depend on the architecture, and all optional devices.
	for arch, want := range map[string]string{
		"x86_64":  "-machine q35 | -vnc unix:screen -device virtio-vga | console=ttyS0 | virtio-blk-pci | virtio-net-pci,netdev=net1,mac=M1 | virtio-rng-pci",
		"aarch64": "-machine virt | -vnc unix:screen -device virtio-gpu-pci | console=ttyAMA0 | virtio-blk-pci | virtio-net-pci,netdev=net1,mac=M1 | virtio-rng-pci",
		"arm":     "-machine virt,highmem=off | console=ttyAMA0 | virtio-blk-pci | virtio-net-pci,netdev=net1,mac=M1 | virtio-rng-pci",
		"riscv64": "-machine virt | console=ttyS0 | virtio-blk-pci | virtio-net-pci,netdev=net1,mac=M1",
		"s390x":   "-machine s390-ccw-virtio | console=ttysclp0 | virtio-blk-ccw | virtio-net-ccw,netdev=net1,mac=M1",
	} {
		m := machine()
		m.Arch, m.Display, m.Serial, m.Bulk, m.RunAs, m.Once = arch, "screen", "line", "bulk", "7:7", true
		m.Network.Subnet = "10.0.3.0/24"
		m.NICs = []NIC{{FD: 4, Model: "virtio", MAC: "M1"}, {FD: 5, Model: "e1000", MAC: "M2"}}
		argv, err := m.Argv()
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(argv, " ")
		for _, part := range append(strings.Split(want, " | "), "-no-reboot", "tap,id=net1,fd=4", "tap,id=net2,fd=5 -device e1000,netdev=net2,mac=M2", "-runas 7:7", "elevateprivileges=allow",
			"user,id=net0,restrict=on,net=10.0.3.0/24,hostfwd=", "-chardev socket,id=bulk,server=on,wait=off,path=bulk -device virtserialport,chardev=bulk,name=meros.bulk", "-device virtio-serial-", "socket,id=console,server=on,wait=off,path=line,logappend=on,logfile=con,,sole -serial chardev:console") {
			if !strings.Contains(all, part) {
				t.Errorf("%s: the command line lacks %q: %s", arch, part, all)
			}
		}
	}
	m.Arch = "pdp11"
	if _, err := m.Argv(); err == nil {
		t.Error("Argv accepted a machine of 1970")
	}
	m = machine()
	m.Disks = nil
	if _, err := m.Argv(); err == nil {
		t.Error("Argv accepted a machine without a disk")
	}
}

// QEMU accepts the command line, even with unusual file names.
func TestQEMUAccepts(t *testing.T) {
	lab.Need(t, "qemu-system-x86_64", "qemu-img")
	dir := t.TempDir()
	for _, name := range []string{"base", "top"} {
		args := []string{"create", "-q", "-f", "qcow2", filepath.Join(dir, name), "1M"}
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	m := machine()
	m.Kernel, m.Initrd, m.Console, m.Extra = "", "", `odd, "name" $x`, []string{"-S"}
	m.Disks = [][]string{{filepath.Join(dir, "top"), filepath.Join(dir, "base")}}
	m.Network.SSHPort, m.Network.Subnet = 0, "10.0.9.0/24"
	m.Display, m.Serial = "screen", "line, serial"
	argv, err := m.Argv()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	out := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var mon *Monitor
	for end := time.Now().Add(lab.Timeout(t, time.Minute)); ; time.Sleep(20 * time.Millisecond) {
		if mon, err = Dial(t.Context(), filepath.Join(dir, "qmp")); err == nil {
			break
		}
		if time.Now().After(end) {
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if status, err := mon.Commands(t.Context()).QueryStatus(); err != nil || status.Status != raw.RunStatePrelaunch {
		t.Errorf("%v, %v", status, err)
	}
	for socket, want := range map[string]string{"screen": "RFB ", "line, serial": ""} {
		c, err := net.Dial("unix", filepath.Join(dir, socket))
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(want))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
			t.Errorf("%s says %q, %v", socket, b, err)
		}
		c.Close()
	}
	// The response exceeds the 64 KiB of one read.
	if all, err := mon.Commands(t.Context()).QomListTypes(nil, nil); err != nil || len(all) < 500 {
		t.Errorf("%d types, %v", len(all), err)
	}
	if _, err := mon.run(t.Context(), []byte(`{"execute":"no-such-command"}`)); err == nil || !strings.Contains(err.Error(), "CommandNotFound") {
		t.Errorf("%v", err)
	}
	if err := mon.Commands(t.Context()).Cont(); err != nil {
		t.Error(err)
	}
	events, err := bound{mon, t.Context()}.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for e := range events { // those of the screen come first
		if e.Event == "RESUME" {
			break
		}
	}
	mon.Close()
	for range events { // until the channel closes with the connection
	}
	if mon, err = Dial(t.Context(), filepath.Join(dir, "qmp")); err != nil {
		t.Fatal(err)
	}
	if err := mon.Commands(t.Context()).Quit(); err != nil {
		t.Error(err)
	}
	mon.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "pid")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("QEMU left its pid file behind: %v", err)
	}
}

func TestAccel(t *testing.T) {
	const with, without = "processor: 0\nflags\t: fpu vmx sse\n", "processor: 0\nflags\t: fpu sse\n"
	no := errors.New("open /dev/kvm: permission denied")
	for _, test := range []struct {
		mode, machine, goarch, cpuinfo string
		kvm                            error
		accel, why                     string // accel "" is an error
	}{
		{"auto", "x86_64", "amd64", with, nil, "kvm", "hardware virtualization"},
		{"auto", "x86_64", "amd64", without, nil, "tcg,thread=multi", "neither svm nor vmx"},
		{"auto", "x86_64", "amd64", with, no, "tcg,thread=multi", "permission denied"},
		{"off", "x86_64", "amd64", with, nil, "tcg,thread=multi", "off in the manifest"},
		{"on", "x86_64", "amd64", with, nil, "kvm", "hardware"},
		{"on", "x86_64", "amd64", without, nil, "", "neither svm nor vmx"},
		{"on", "x86_64", "amd64", with, no, "", "permission denied"},
		{"auto", "s390x", "amd64", with, nil, "tcg,thread=multi", "the machine is s390x"},
		{"auto", "riscv64", "amd64", with, nil, "tcg,thread=multi", "the machine is riscv64"}, // QEMU 7 lacks its "max" processor
		{"auto", "i386", "amd64", with, nil, "kvm", "hardware"},                               // an x86_64 runs its instructions
		{"auto", "i386", "amd64", without, nil, "tcg,thread=multi", "neither svm nor vmx"},
		{"auto", "ppc64", "ppc64le", without, nil, "kvm", "hardware"}, // QEMU's name covers both byte orders
		{"on", "ppc64", "ppc64le", without, nil, "kvm", "hardware"},
		{"auto", "ppc64", "ppc64le", without, no, "tcg,thread=multi", "permission denied"},
		{"auto", "x86_64", "ppc64le", without, nil, "tcg,thread=multi", "the machine is x86_64, the host ppc64"},
		{"auto", "aarch64", "arm64", without, nil, "kvm", "hardware"},
		{"auto", "arm", "arm64", without, nil, "tcg,thread=multi", "the machine is arm, the host aarch64"},
		{"auto", "s390x", "s390x", without, nil, "kvm", "hardware"},
		{"auto", "riscv64", "riscv64", without, nil, "kvm", "hardware"},
		{"auto", "i386", "386", without, nil, "kvm", "hardware"},
	} {
		args, why, err := Accel(test.mode, test.machine, arch.FromGo(test.goarch), test.cpuinfo, test.kvm)
		switch {
		case test.accel == "" && (err == nil || !strings.Contains(err.Error(), test.why)):
			t.Errorf("%+v: %v", test, err)
		case slices.Contains(args, "max") != (test.machine != "riscv64" && test.machine != "ppc64" && test.accel != "kvm") && test.accel != "":
			t.Errorf("%+v: %q", test, args)
		case test.accel != "" && (err != nil || args[1] != test.accel || !strings.Contains(why, test.why)):
			t.Errorf("%+v: %q, %q, %v", test, args, why, err)
		}
	}
}

// fakeMonitor serves a socket that sends one of the answers at first and after
// each line that it reads.
func fakeMonitor(t *testing.T, answers ...string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		in := bufio.NewScanner(c)
		for _, a := range answers {
			fmt.Fprintln(c, a)
			if !in.Scan() {
				return
			}
		}
		<-t.Context().Done()
	}()
	return socket
}

const greeting = `{"QMP":{"version":{},"capabilities":[]}}`

func TestMonitor(t *testing.T) {
	m, err := Dial(t.Context(), fakeMonitor(t, greeting, `{"event":"RESET","timestamp":{}} {"return":{}}`, `{"error":{"class":"GenericError","desc":"no"}}`, `{"event":"STOP"}`+"\n"+`{"return":{"n":7}}`, ``))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.run(t.Context(), []byte(`{"execute":"x"}`)); err == nil || err.Error() != "qmp: no (GenericError)" {
		t.Errorf("%v", err)
	}
	if out, err := m.run(t.Context(), []byte(`{"execute":"y"}`)); err != nil || string(out) != `{"return":{"n":7}}` {
		t.Errorf("%s, %v", out, err)
	}
	if len(m.events) != 2 || m.events[0].Event != "RESET" || m.events[1].Event != "STOP" {
		t.Errorf("the monitor lost events: %+v", m.events)
	}
	// A monitor that never answers blocks only until the context ends.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := m.Commands(ctx).Stop(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if _, err := Dial(t.Context(), fakeMonitor(t, "SSH-2.0-x")); err == nil {
		t.Error("Dial took an ssh server for a monitor")
	}
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("Dial connected to a socket that does not exist")
	}
}

func TestVersions(t *testing.T) {
	for version, want := range map[string]struct {
		tooOld string
		stale  bool
	}{
		"QEMU emulator version 7.2.9 (Debian 1:7.2)":   {"", true},
		"QEMU emulator version 6.0.0":                  {"", true},
		"QEMU emulator version 8.0.4":                  {"", true},
		"QEMU emulator version 8.1.0":                  {"", false},
		"QEMU emulator version 10.0.2 (Debian 1:10.0)": {"", false},
		"nothing": {"", false},
		"QEMU emulator version 5.2.0 (Debian 1:5.2)": {"this is QEMU 5.2; meros needs 6.0 or newer", true},
	} {
		if got := tooOld(version); got != want.tooOld {
			t.Errorf("%q: %q, want %q", version, got, want.tooOld)
		}
		if got := stale(version); got != want.stale {
			t.Errorf("%q: stale is %t", version, got)
		}
	}
}

func TestHostAccel(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	for _, test := range []struct {
		version string
		cpus    int
		accel   string
	}{
		{"7.2.9", 2, "tcg,thread=single"}, {"7.2.9", 1, "tcg,thread=multi"}, {"8.1.0", 2, "tcg,thread=multi"},
	} {
		script := "#!/bin/sh\necho QEMU emulator version " + test.version + "\n"
		if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		args, why, err := HostAccel(t.Context(), "off", "x86_64", test.cpus)
		if err != nil || args[1] != test.accel || strings.Contains(why, "take turns") != strings.HasSuffix(test.accel, "single") {
			t.Errorf("%+v: %q, %q, %v", test, args, why, err)
		}
	}
}
