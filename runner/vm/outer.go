// This file is the outer process of a supervisor. It works in the host's
// namespaces: it listens on the host's ports and attaches the uplink.

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// Names of the supervisor's files in a group's state directory.
const (
	supervisorLock = ".supervisor"
	supervisorLog  = "supervisor.log"
	controlSocket  = ".control"
)

// Uplink connects network namespaces to the world.
type Uplink struct {
	// Attach connects the namespace of a process until stop is called.
	Attach   func(ctx context.Context, pid int) (stop func(), err error)
	Resolver string // address of a name server in the namespace
}

// hostRequest is a request from the inner to the outer process of a supervisor.
// The outer one has access to the host's network.
type hostRequest struct {
	Op    string // "ports", "world", "host" with a connection, "pid" with a pidfd
	Ports []Port // "ports": the ports of the host to listen on
	Port  uint16 // "host": the port of the host to connect to
}

type hostResponse struct {
	Error string `json:",omitempty"`
	Hint  string `json:",omitempty"` // next steps of the error, one a line
	PID   int    `json:",omitempty"`
}

// outer is the half of a supervisor in the host's namespaces. It listens on the
// host's ports, connects to them, and attaches the uplink. Each half ends with the
// other.
type outer struct {
	group   *Group
	uplink  Uplink
	inner   int // process id
	pair    *pair
	stop    func() // of the uplink, or nil
	mu      sync.Mutex
	listens map[Port]net.Listener
}

// Supervise runs the supervisor of a group until its last machine has ended. The
// supervisor owns the namespaces of the group's networks and machines, and
// everything in them ends with it. program is the argument vector by which this
// program runs [SuperviseInner]; Supervise appends the argument. It closes ready
// once the supervisor accepts requests.
func Supervise(ctx context.Context, g *Group, program []string, uplink Uplink, ready io.Closer) error {
	lock, err := openLock(filepath.Join(g.State, supervisorLock))
	if err != nil {
		return err
	}
	defer lock.Close()
	if ok, err := tryLock(lock); err != nil || !ok {
		return errors.Join(err, errors.New("a supervisor already runs"))
	}
	socket, err := listenAt(filepath.Join(g.State, controlSocket))
	if err != nil {
		return err
	}
	defer os.Remove(filepath.Join(g.State, controlSocket))
	defer socket.Close()
	o := &outer{group: g, uplink: uplink, listens: make(map[Port]net.Listener)}
	return o.run(ctx, program, socket, ready)
}

// listenAt makes a unix socket that only this user can connect to.
func listenAt(file string) (*os.File, error) {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	address, done, err := socketAddress(file)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.Listen("unix", address) // in a directory that only this user may enter
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(file, 0o600); err != nil {
		return nil, err
	}
	return l.(*net.UnixListener).File()
}

func (o *outer) run(ctx context.Context, program []string, socket *os.File, ready io.Closer) error {
	p, theirs, err := newPair()
	if err != nil {
		return err
	}
	defer p.conn.Close()
	o.pair = p
	text, err := json.Marshal(innerConfig{Group: o.group, Resolver: o.uplink.Resolver})
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", program[1:]...)
	cmd.Args = append(append([]string{}, program...), string(text))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, socket}
	cmd.Dir = "/"
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC, Pdeathsig: unix.SIGKILL,
	}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []unixIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []unixIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig is sent when this thread ends, prctl(2)
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		const allow = "`sysctl -w user.max_user_namespaces=15000` allows it, on Ubuntu also `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`; or run meros as root"
		return hint.Add(fmt.Errorf("make namespaces: %w", err), allow)
	}
	o.inner = cmd.Process.Pid
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	ready.Close()
	go o.handle(ctx)
	err = cmd.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.listens {
		l.Close()
	}
	if o.stop != nil {
		o.stop()
	}
	return err
}

// handle serves the inner process until it ends.
func (o *outer) handle(ctx context.Context) {
	for {
		var q hostRequest
		f, err := o.pair.receive(&q) // f may be nil
		if err != nil {
			return
		}
		var r hostResponse
		switch {
		case q.Op == "ports":
			err = o.listen(ctx, q.Ports)
		case q.Op == "world":
			err = o.attach(ctx)
		case q.Op == "host" && f != nil:
			go o.toHost(ctx, f, q.Port)
			f = nil
		case q.Op == "pid" && f != nil:
			r.PID, err = pidOf(f)
		default:
			err = fmt.Errorf("unknown request %q", q.Op)
		}
		if f != nil {
			f.Close()
		}
		if err != nil {
			r.Error, r.Hint = err.Error(), hint.Of(err)
		}
		if o.pair.send(r, nil) != nil {
			return
		}
	}
}

// attach connects the namespace to the world. It replaces an earlier connection.
func (o *outer) attach(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stop != nil {
		o.stop()
		o.stop = nil
	}
	stop, err := o.uplink.Attach(ctx, o.inner)
	if err == nil {
		o.stop = stop
	}
	return err
}

// listen makes the process listen on exactly these ports of the host.
func (o *outer) listen(ctx context.Context, ports []Port) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	wanted := make(map[Port]bool)
	for _, p := range ports {
		wanted[p] = true
	}
	for p, l := range o.listens {
		if !wanted[p] {
			l.Close()
			delete(o.listens, p)
		}
	}
	for _, p := range ports {
		if o.listens[p] != nil {
			continue
		}
		l, err := net.Listen("tcp", p.Listen.String())
		if err != nil {
			return fmt.Errorf("port %s: %w%s", p, errors.Unwrap(errors.Unwrap(err)), holder(p.Listen))
		}
		o.listens[p] = l
		go o.serve(ctx, l, p)
	}
	return nil
}

// serve forwards a port's connections to the machine.
func (o *outer) serve(ctx context.Context, l net.Listener, p Port) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			to, err := o.group.Dial(ctx, p.Machine, p.Port)
			if err != nil {
				fmt.Fprintf(os.Stderr, "port %s: %s\n", p, hint.Line(err))
				return
			}
			relay(c, to)
		}()
	}
}

// toHost connects a machine to a port of the host. It uses an address that other
// hosts use too, so a service on the loopback interface alone is out of reach.
func (o *outer) toHost(ctx context.Context, f *os.File, port uint16) {
	defer f.Close()
	from, err := net.FileConn(f)
	if err != nil {
		return
	}
	defer from.Close()
	a, err := hostAddress()
	if err == nil {
		d := net.Dialer{Timeout: 5 * time.Second}
		var to net.Conn
		if to, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(a, port).String()); err == nil {
			relay(from, to)
			return
		}
	}
	if t, ok := from.(*net.TCPConn); ok {
		t.SetLinger(0) // closes by a reset, like a closed port
	}
}

// hostAddress returns an IPv4 address of the host that is not a loopback address.
func hostAddress() (netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap().Is4() && ip.Unmap().IsGlobalUnicast() {
				return ip.Unmap(), nil
			}
		}
	}
	return netip.Addr{}, errors.New("the host only has loopback addresses")
}

// relay copies in both directions until both have ended, and closes both
// connections.
func relay(a, b net.Conn) {
	var wg sync.WaitGroup
	for _, c := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			io.Copy(c[0], c[1])
			if w, ok := c[0].(interface{ CloseWrite() error }); ok {
				w.CloseWrite()
			}
		})
	}
	wg.Wait()
	a.Close()
	b.Close()
}

// pidOf returns the id, in this namespace, of the process that a pidfd refers to,
// pidfd_open(2).
func pidOf(f *os.File) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(b)) {
		var pid int
		if _, err := fmt.Sscanf(l, "Pid: %d", &pid); err == nil {
			return pid, nil
		}
	}
	return 0, errors.New("not a pidfd")
}
