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
)

// UserResolver is the address that answers DNS queries in a [UserNetwork]:
// pasta passes them on to the host's own resolver.
const UserResolver = "169.254.1.53"

// attachWait is how long pasta may take to set up a namespace; it takes 20 ms.
const attachWait = 10 * time.Second

// attachUserNetwork connects the network namespace of a process to the world
// by pasta(1), which translates connections to sockets of the host. Nothing
// is forwarded into the namespace, and the host's loopback is not reachable
// from it: --no-map-gw, and no ports of either direction.
func attachUserNetwork(ctx context.Context, pid int) (stop func(), err error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var messages bytes.Buffer
	args := []string{"--foreground", "--quiet", "--runas", "0", "--config-net", "--no-map-gw",
		"-t", "none", "-u", "none", "-T", "none", "-U", "none", "--dns-forward", UserResolver}
	if name := defaultInterface(); name != "" {
		args = append(args, "--outbound-if4", name) // and so no other address of the host
	}
	cmd := exec.CommandContext(ctx, "pasta", append(args, "--netns", "/proc/self/fd/3")...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &messages, &messages, []*os.File{ns}
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, errors.New("pasta is not installed, which gives a sandbox a network (Debian: apt install passt)")
		}
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() { cmd.Process.Kill(); <-ended }
	give := time.After(attachWait)
	for !hasRoute(pid) {
		select {
		case err := <-ended:
			return nil, fmt.Errorf("pasta ended: %w: %s", err, strings.TrimSpace(messages.String()))
		case <-give:
			stop()
			return nil, fmt.Errorf("pasta set up no network in %v (does the host have one?): %s", attachWait, strings.TrimSpace(messages.String()))
		case <-time.After(2 * time.Millisecond):
		}
	}
	return stop, nil
}

// hasRoute tells whether a process's namespace has a default route.
func hasRoute(pid int) bool { return defaultRoute(fmt.Sprint(pid)) != "" }

// defaultInterface is the host's interface to the world, or "".
func defaultInterface() string { return defaultRoute("self") }

// defaultRoute is the interface of a process's default route: in the files of
// proc_pid_net(5), that is one with an empty mask.
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
