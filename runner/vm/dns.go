// This file runs dnsmasq(8), which gives machines their addresses and names.

package vm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"meros/runner/hint"
	"meros/runner/network"
)

// dnsmasq returns the command line of dnsmasq(8) for one bridge. resolver answers
// for names outside the group; it is "" without one, and only bridges that reach
// the world use it. With manyIDs dnsmasq stops being root, which a namespace of a
// single id does not allow. It writes no file.
func dnsmasq(ns *Networks, b network.Bridge, resolver string, manyIDs bool) []string {
	host := b.Address.Addr().String()
	argv := []string{"dnsmasq", "--no-daemon"}
	if manyIDs {
		argv = []string{"dnsmasq", "--keep-in-foreground", "--user=nobody"}
	}
	argv = append(argv, "--conf-file=/dev/null", "--log-facility=-", "--pid-file=", "--leasefile-ro",
		"--no-hosts", "--no-resolv", "--no-poll", "--no-ping", "--bind-interfaces", "--except-interface=lo", "--interface="+b.Name,
		"--domain="+ns.Domain, "--local=/"+ns.Domain+"/", "--domain-needed", "--bogus-priv",
		fmt.Sprintf("--dhcp-range=%s,static,%s,1h", b.Address.Masked().Addr(), mask(b.Address.Bits())), "--dhcp-authoritative",
		"--dhcp-option=option:dns-server,"+host)
	if b.Policy.World {
		argv = append(argv, "--dhcp-option=option:router,"+host)
	} else {
		argv = append(argv, "--dhcp-option=option:router") // sends no router
		if len(b.Policy.Allowed) > 0 {
			routes := "--dhcp-option=option:classless-static-route"
			for _, p := range b.Policy.Allowed {
				routes += fmt.Sprintf(",%s,%s", p, host)
			}
			argv = append(argv, routes)
		}
	}
	if b.Policy.World && resolver != "" {
		argv = append(argv, "--server="+resolver)
	}
	argv = append(argv, fmt.Sprintf("--host-record=host.%s,%s", ns.Domain, host))
	for _, h := range ns.Hosts {
		if h.Bridge != b.Name {
			continue
		}
		argv = append(argv, fmt.Sprintf("--dhcp-host=%s,%s,%s", h.MAC, h.Address, h.Machine))
		if !b.Policy.Isolated {
			argv = append(argv, fmt.Sprintf("--host-record=%s,%s.%s,%s", h.Machine, h.Machine, ns.Domain, h.Address))
		}
	}
	return argv
}

// mask returns a prefix length as a network mask.
func mask(bits int) string {
	m := ^uint32(0) << (32 - bits)
	return fmt.Sprintf("%d.%d.%d.%d", m>>24, m>>16&255, m>>8&255, m&255)
}

// nameServer is a running dnsmasq.
type nameServer struct {
	argv []string
	cmd  *exec.Cmd
	log  strings.Builder
	done chan struct{}
}

func startNameServer(argv []string) (*nameServer, error) {
	n := &nameServer{argv: argv, done: make(chan struct{})}
	n.cmd = exec.Command(argv[0], argv[1:]...)
	n.cmd.Stdout, n.cmd.Stderr = &n.log, &n.log
	n.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	path, err := lookPath(argv[0])
	if err != nil {
		return nil, hint.Add(errors.New("dnsmasq is not installed, which gives machines their addresses and names"), "Debian: `apt install dnsmasq-base`")
	}
	n.cmd.Path, n.cmd.Err = path, nil
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { n.cmd.Wait(); close(n.done) }()
	return n, nil
}

// lookPath finds a program, also in the directories that an ordinary user's PATH
// may lack.
func lookPath(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if fi, err := os.Stat(dir + "/" + name); err == nil && fi.Mode()&0o111 != 0 {
			return dir + "/" + name, nil
		}
	}
	return "", exec.ErrNotFound
}

// same reports whether the server runs and was started with argv.
func (n *nameServer) same(argv []string) bool {
	select {
	case <-n.done:
		return false
	default:
		return slices.Equal(n.argv, argv)
	}
}

// greet waits until the server accepts connections at an address, or has ended.
func (n *nameServer) greet(a netip.Addr) error {
	for {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(a, 53).String(), time.Second)
		if err == nil {
			return c.Close()
		}
		select {
		case <-n.done:
			return fmt.Errorf("dnsmasq ended: %s", strings.TrimSpace(n.log.String()))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (n *nameServer) stop() {
	n.cmd.Process.Kill()
	<-n.done
}
