// This file connects the network namespace of a sandbox to the world, through
// pasta(1).

package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// UserResolver is the address of the DNS server in a [UserNetwork]. pasta passes
// the queries on to the host's resolver.
const UserResolver = "169.254.1.53"

// attachWait is the timeout for pasta to set up a namespace. It takes 20 ms.
const attachWait = 10 * time.Second

// AttachUserNetwork connects the network namespace of a process to the world
// with pasta(1), which translates connections to sockets of the host. Nothing is
// forwarded into the namespace, and the namespace cannot reach the host's
// loopback: --no-map-gw, and no ports in either direction. The namespace may
// belong to another user namespace that the caller created. The connection ends
// when stop is called or this process ends.
func AttachUserNetwork(ctx context.Context, pid int) (stop func(), err error) {
	var spaces []*os.File
	for _, kind := range []string{"net", "user"} {
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			return nil, err
		}
		defer ns.Close()
		spaces = append(spaces, ns)
	}
	var messages bytes.Buffer
	args := []string{"--foreground", "--quiet", "--config-net", "--no-map-gw",
		"-t", "none", "-u", "none", "-T", "none", "-U", "none", "--dns-forward", UserResolver}
	name := defaultInterface()
	if name == "" {
		return nil, errors.New("this host has no IPv4 default route")
	}
	args = append(args, "--outbound-if4", name) // hides the host's other addresses
	if os.Geteuid() == 0 {
		args = append(args, "--runas", "0")
	}
	if !sameNamespace(spaces[1], "user") {
		args = append(args, "--userns", "/proc/self/fd/4")
	}
	cmd := exec.CommandContext(ctx, "pasta", append(args, "--netns", "/proc/self/fd/3")...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &messages, &messages, spaces
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, hint.Add(errors.New("pasta is not installed, and a sandbox needs it for its network"), "Debian: `apt install passt`")
		}
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() { cmd.Process.Kill(); <-ended }
	timeout := time.After(attachWait)
	for !hasRoute(pid) {
		select {
		case err := <-ended:
			return nil, fmt.Errorf("pasta exited: %w: %s", err, strings.TrimSpace(messages.String()))
		case <-timeout:
			stop()
			err := fmt.Errorf("pasta set up no network within %v: %s", attachWait, strings.TrimSpace(messages.String()))
			return nil, hint.Add(err, "check that the host has a network: `ip route`")
		case <-time.After(2 * time.Millisecond):
		}
	}
	return stop, nil
}

// sameNamespace reports whether an open namespace is this process's own.
func sameNamespace(ns *os.File, kind string) bool {
	ours, err := os.Stat("/proc/self/ns/" + kind)
	if err != nil {
		return false
	}
	theirs, err := ns.Stat()
	return err == nil && os.SameFile(ours, theirs)
}

// hasRoute reports whether a process's network namespace has a default route.
func hasRoute(pid int) bool { return defaultRoute(fmt.Sprint(pid)) != "" }

// defaultInterface returns the host's interface with the default route, or "".
func defaultInterface() string { return defaultRoute("self") }

// defaultRoute returns the interface of a process's default route, or "". In the
// files of proc_pid_net(5), a default route has an empty mask.
func defaultRoute(process string) string {
	b, err := os.ReadFile(filepath.Join("/proc", process, "net/route"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			return f[0]
		}
	}
	return ""
}
