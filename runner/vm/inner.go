// This file is the inner process of a supervisor. It owns the networks and the
// machines; the outer process does everything that needs the host's network.

package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
	"meros/runner/network"
	"meros/runner/qemu"
)

// innerConfig is the argument of the inner process.
type innerConfig struct {
	Group    *Group
	Resolver string // see [Uplink]
}

// inner is the half of a supervisor in the namespaces of the group's networks. It
// is the first process of its process namespace, so that no machine survives it.
type inner struct {
	*launcher
	resolver string
	outer    *pair
	calling  sync.Mutex // held during one request to the outer process

	mu       sync.Mutex // guards the fields below; snapshots hold it so that no machine starts meanwhile
	networks *Networks
	net      network.Network
	names    map[string]*nameServer          // by bridge
	relays   map[netip.AddrPort]net.Listener // by bridge address and port of the host
	uplink   string                          // interface to the world, or ""
}

// SuperviseInner is the life of the inner process. config is the argument that
// [Supervise] passed.
func SuperviseInner(ctx context.Context, config string) error {
	var c innerConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	p, err := openPair(os.NewFile(3, "pair"))
	if err != nil {
		return err
	}
	l, err := net.FileListener(os.NewFile(4, "control"))
	if err != nil {
		return err
	}
	if err := mountOwn(); err != nil {
		return err
	}
	s := &inner{resolver: c.Resolver, outer: p, names: make(map[string]*nameServer), relays: make(map[netip.AddrPort]net.Listener)}
	s.launcher = newLauncher(c.Group, s.adapt, s.hostPID)
	return s.serve(ctx, l.(*net.UnixListener))
}

// mountOwn mounts /proc and /sys again, so that they show the namespaces' own
// processes and interfaces.
func mountOwn() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	for kind, dir := range map[string]string{"proc": "/proc", "sysfs": "/sys"} {
		if err := unix.Mount(kind, dir, kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	return nil
}

// serve answers clients until neither a machine nor a client is left.
func (s *inner) serve(ctx context.Context, l *net.UnixListener) error {
	signal.Ignore(unix.SIGINT, unix.SIGHUP, unix.SIGQUIT) // a terminal's signals are meant for the client
	conns := make(chan *net.UnixConn)
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				close(conns)
				return
			}
			conns <- c
		}
	}()
	open := 0
	ended := make(chan struct{})
	begun := time.After(10 * time.Second) // ends a supervisor that no client uses
	for {
		select {
		case c, ok := <-conns:
			if !ok {
				return errors.New("the control socket is closed")
			}
			open++
			go func() { s.handle(ctx, c); c.Close(); ended <- struct{}{} }()
			continue
		case <-ended:
			open--
		case <-s.idle:
		case <-begun:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if open == 0 && !s.anyAlive() {
			// The records must say how each machine ended before the lock is free.
			s.ends.Range(func(machine, _ any) bool { s.awaitEnd(machine.(string)); return true })
			return nil
		}
	}
}

func (s *inner) anyAlive() bool {
	names, err := s.Machines()
	return err == nil && slices.ContainsFunc(names, s.alive)
}

// handle serves one client.
func (s *inner) handle(ctx context.Context, c *net.UnixConn) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in := json.NewDecoder(bufio.NewReader(c))
	var r request
	if err := in.Decode(&r); err != nil {
		return
	}
	var sending sync.Mutex
	send := func(r response) {
		sending.Lock()
		defer sending.Unlock()
		c.SetWriteDeadline(time.Now().Add(10 * time.Second))
		json.NewEncoder(c).Encode(r) // the request goes on if the client has left
	}
	var err error
	switch {
	case r.Version != wireVersion && !slices.Contains(lasting, r.Op):
		err = errors.New("another version of meros started the supervisor")
		err = hint.Add(err, "`meros shutdown %s`, then `meros init %[1]s`, starts a new one", s.Name)
	case r.Op == "dial" && len(r.Machines) == 1:
		if f, derr := s.dialMachine(ctx, r.Machines[0], r.Port); derr != nil {
			err = derr
		} else {
			defer f.Close()
			b, _ := json.Marshal(response{Done: true})
			sendFile(c, append(b, '\n'), f)
			return
		}
	case r.Op == "up" && r.Up != nil:
		go func() {
			var more request
			if in.Decode(&more) == nil && more.Cancel {
				cancel(errors.New("interrupted"))
			}
		}()
		err = s.up(ctx, r, send)
	case r.Op == "down":
		err = s.down(ctx, r, send)
	case r.Op == "status":
		err = s.status(ctx, r, send)
	case r.Op == "save" || r.Op == "restore" || r.Op == "forget" || r.Op == "snapshots":
		err = s.snapshots(ctx, r, send)
	case r.Op == "check":
		err = s.check(ctx, send)
	default:
		err = fmt.Errorf("unknown request %q", r.Op)
	}
	send(lastResponse(err))
}

// callOuter sends a request to the outer process and returns its response.
func (s *inner) callOuter(q hostRequest, f *os.File) (hostResponse, error) {
	s.calling.Lock()
	defer s.calling.Unlock()
	var r hostResponse
	if err := s.outer.send(q, f); err != nil {
		return r, fmt.Errorf("send to the supervisor's outer process: %w", err)
	}
	if _, err := s.outer.receive(&r); err != nil {
		return r, fmt.Errorf("receive from the supervisor's outer process: %w", err)
	}
	return r, received(r.Error, r.Hint)
}

// up makes the networks as described and starts machines.
func (s *inner) up(ctx context.Context, r request, send func(response)) error {
	s.mu.Lock()
	began, first := time.Now(), s.networks == nil
	changes, err := s.applyNetworks(r.Up.Networks, func(text string) { send(response{Note: text}) })
	s.mu.Unlock()
	if err != nil {
		return err
	}
	took := fmt.Sprintf("%.0f ms", time.Since(began).Seconds()*1000)
	if first {
		if n := len(r.Up.Networks.Bridges); n > 0 {
			send(response{Note: fmt.Sprintf("networks are up: %d bridges, %d interfaces (%s)", n, len(r.Up.Networks.Hosts), took)})
		}
	} else {
		for _, c := range changes {
			send(response{Note: c})
		}
	}
	return s.startAll(ctx, r.Up.Machines, StartOptions{
		Timeout: r.Timeout,
		Note:    func(m, text string) { send(response{Machine: m, Note: text}) },
		Report:  func(m string) { send(response{Machine: m, Ready: true}) },
	})
}

// adapt gives a machine's command line the sockets of a supervised machine, and
// a user id of its own if the supervisor is root.
func (s *inner) adapt(m *Machine, q *qemu.Machine) {
	q.Serial, q.Bulk = serialFile, bulkFile
	if subnet := s.management(); subnet.IsValid() {
		q.Network.Subnet = subnet.String()
	}
	if os.Geteuid() == 0 && mapsMany() {
		q.RunAs = runAs(s.Name, m.Name)
	}
}

// hostPID returns a child's process id in the host's namespace.
func (s *inner) hostPID(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	r, err := s.callOuter(hostRequest{Op: "pid"}, f)
	return r.PID, err
}

// applyNetworks sets up bridges, policies, name servers and ports, and returns what it
// changed. A missing uplink is only a warning.
func (s *inner) applyNetworks(ns *Networks, warn func(string)) (changes []string, err error) {
	if _, err := s.callOuter(hostRequest{Op: "ports", Ports: ns.Ports}, nil); err != nil {
		return nil, err
	}
	if s.uplink = uplinkName(); s.uplink == "" && ns.uplinked() {
		// Machines start even if the host is offline.
		if _, err := s.callOuter(hostRequest{Op: "world"}, nil); err != nil {
			warn("no machine reaches the world: " + hint.Line(err))
		}
		s.uplink = uplinkName()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if changes, err = s.net.Apply(ns.Bridges, s.uplink); err != nil {
		return nil, err
	}
	if err := s.serveNames(ns, &changes); err != nil {
		return nil, err
	}
	if err := s.relayPorts(ns); err != nil {
		return nil, err
	}
	s.networks = ns
	return changes, nil
}

// uplinkName returns the interface of the default route, or "".
func uplinkName() string {
	b, err := os.ReadFile("/proc/self/net/route")
	if err != nil {
		return ""
	}
	return defaultRoute(string(b))
}

// serveNames runs a name server on every bridge.
func (s *inner) serveNames(ns *Networks, changes *[]string) error {
	wanted := make(map[string]bool)
	for _, b := range ns.Bridges {
		wanted[b.Name] = true
		argv := dnsmasq(ns, b, s.resolver, mapsMany())
		old := s.names[b.Name]
		if old != nil && old.same(argv) {
			continue
		}
		if old != nil {
			old.stop()
			*changes = append(*changes, "the name server of "+b.Name+" was restarted")
		}
		n, err := startNameServer(argv)
		if err != nil {
			return fmt.Errorf("bridge %s: %w", b.Name, err)
		}
		s.names[b.Name] = n
		if err := n.greet(b.Address.Addr()); err != nil {
			return fmt.Errorf("bridge %s: %w", b.Name, err)
		}
	}
	for name, n := range s.names {
		if !wanted[name] {
			n.stop()
			delete(s.names, name)
		}
	}
	return nil
}

// relayPorts listens, on each bridge, on the ports of the host that its machines
// may reach, and hands the connections to the outer process.
func (s *inner) relayPorts(ns *Networks) error {
	wanted := make(map[netip.AddrPort]bool)
	for _, b := range ns.Bridges {
		for _, p := range b.Policy.HostPorts {
			if p != 53 { // the name server listens there
				wanted[netip.AddrPortFrom(b.Address.Addr(), p)] = true
			}
		}
	}
	for a, l := range s.relays {
		if !wanted[a] {
			l.Close()
			delete(s.relays, a)
		}
	}
	for a := range wanted {
		if s.relays[a] != nil {
			continue
		}
		l, err := net.Listen("tcp", a.String())
		if err != nil {
			return fmt.Errorf("port %d of the host: %w", a.Port(), err)
		}
		s.relays[a] = l
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if f, err := c.(*net.TCPConn).File(); err == nil {
					s.callOuter(hostRequest{Op: "host", Port: a.Port()}, f)
					f.Close()
				}
				c.Close()
			}
		}()
	}
	return nil
}

// management returns the network by which the host reaches machines. It is invalid
// before the networks exist; QEMU then uses its own.
func (s *inner) management() netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.networks == nil {
		return netip.Prefix{}
	}
	return s.networks.management()
}

func (s *inner) down(ctx context.Context, r request, send func(response)) error {
	errs := make([]error, len(r.Machines))
	var wg sync.WaitGroup
	for i, m := range r.Machines {
		wg.Go(func() {
			d, err := s.shutdown(ctx, m, r.Timeout)
			if errs[i] = err; err == nil {
				send(response{Machine: m, Down: &d})
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *inner) status(ctx context.Context, r request, send func(response)) error {
	errs := make([]error, len(r.Machines))
	var wg sync.WaitGroup
	for i, m := range r.Machines {
		wg.Go(func() {
			s.awaitEnd(m)
			st, err := s.info(ctx, m)
			if errs[i] = err; err == nil {
				st.Received, st.Sent = s.traffic(m)
				send(response{Machine: m, Status: &st})
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// traffic returns how many bytes a machine has received and sent on the networks.
func (s *inner) traffic(machine string) (received, sent int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.networks == nil {
		return 0, 0
	}
	for _, h := range s.networks.Hosts {
		if h.Machine == machine {
			out, in := network.Traffic(h.Tap)
			received, sent = received+in, sent+out
		}
	}
	return received, sent
}

// check tries every path of the networks' matrix.
func (s *inner) check(ctx context.Context, send func(response)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.networks == nil {
		return errors.New("there are no networks yet")
	}
	var used []netip.Addr
	for _, h := range s.networks.Hosts {
		used = append(used, h.Address)
	}
	results, err := network.Check(ctx, s.networks.Bridges, s.uplink, used)
	send(response{Results: results})
	return err
}

// dialMachine connects to a port of a machine. It does not need the machine's
// networks.
func (s *inner) dialMachine(ctx context.Context, machine string, port uint16) (*os.File, error) {
	local, err := s.forward(ctx, machine, port)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: 5 * time.Second}
	c, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", local))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.(*net.TCPConn).File()
}
