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

// Files of a group's state directory.
const (
	supervisorLock = ".supervisor"
	supervisorLog  = "supervisor.log"
	controlSocket  = ".control"
)

// Uplink connects the network namespace of a process to the world, whose
// resolver it names, until stop is called.
type Uplink struct {
	Attach   func(ctx context.Context, pid int) (stop func(), err error)
	Resolver string
}

// question is what the inner process of a supervisor asks the outer one, which
// is where the host's network is.
type hostRequest struct {
	Op    string // "ports", "world", "host" with a connection, "pid" with a pidfd
	Ports []Port // ports: those of the host to listen at
	Port  uint16 // host: the port of the host that a machine wants
}

type hostResponse struct {
	Error string `json:",omitempty"`
	Hint  string `json:",omitempty"` // next steps of the error, one a line
	PID   int    `json:",omitempty"`
}

// outer is the part of a supervisor that is in the host's namespaces. It does
// what only can be done there: listen at and connect to the host's ports, and
// bring the world in. It ends with the inner process, and that with it.
type outer struct {
	group   *Group
	uplink  Uplink
	inner   int // process id
	pair    *pair
	stop    func() // of the uplink, or nil
	mu      sync.Mutex
	listens map[Port]net.Listener
}

// Supervise is the life of a group's supervisor: it owns the namespaces that
// the group's networks and machines are in, and everything in them ends with
// it. program starts the inner process, given its argument vector. ready is
// closed by then when the supervisor can be asked.
func Supervise(ctx context.Context, g *Group, program []string, uplink Uplink, ready io.Closer) error {
	lock, err := openLock(filepath.Join(g.State, supervisorLock))
	if err != nil {
		return err
	}
	defer lock.Close()
	if ok, err := tryLock(lock); err != nil || !ok {
		return errors.Join(err, errors.New("there is a supervisor already"))
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

// listenAt makes the socket that clients come to: only the user's own.
func listenAt(file string) (*os.File, error) {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	address, done, err := socketAddress(file)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.Listen("unix", address) // in a directory that nobody else enters
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
	runtime.LockOSThread() // the signal comes when this thread ends, prctl(2)
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("make namespaces: %w (allow it: sysctl -w user.max_user_namespaces=15000; on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0; or run as root)", err)
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

// answer serves the inner process until it ends.
func (o *outer) handle(ctx context.Context) {
	for {
		var q hostRequest
		f, err := o.pair.receive(&q)
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
			err = fmt.Errorf("there is no question %q", q.Op)
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

// attach connects the namespace to the world, anew if it was.
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

// listen listens at these ports of the host and at no others.
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

// serve gives a port's connections to the machine.
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
				fmt.Fprintf(os.Stderr, "port %s: %v\n", p, err)
				return
			}
			relay(c, to)
		}()
	}
}

// toHost connects a machine to a port of the host: to what listens for others
// too, never to what listens on the loopback interface alone.
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
		t.SetLinger(0) // a reset, as from a port that nobody listens at
	}
}

// hostAddress is an address of the host that others know it by.
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
	return netip.Addr{}, errors.New("the host has no address but its loopback's")
}

// relay copies both ways until both are at their end, and closes both.
func relay(a, b net.Conn) {
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			io.Copy(way[0], way[1])
			if w, ok := way[0].(interface{ CloseWrite() error }); ok {
				w.CloseWrite()
			}
		})
	}
	wg.Wait()
	a.Close()
	b.Close()
}

// pidOf is the number, here, of the process that a pidfd stands for,
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
	return 0, errors.New("it is no pidfd")
}
