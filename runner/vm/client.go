// This file is the client of a group's supervisor. It starts the supervisor, but
// never a machine.

package vm

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	cryptossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"meros/runner/network"
)

// Supervised reports whether the group's supervisor runs.
func (g *Group) Supervised() bool { return locked(filepath.Join(g.State, supervisorLock)) }

// connect opens a connection to the supervisor.
func (g *Group) connect(ctx context.Context) (*net.UnixConn, error) {
	address, done, err := socketAddress(filepath.Join(g.State, controlSocket))
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", g.Name, errNoSupervisor)
	}
	return c.(*net.UnixConn), nil
}

var errNoSupervisor = errors.New("its supervisor does not run")

// call sends a request to the supervisor and passes each response to each, which
// may be nil. If ctx ends, the supervisor undoes an "up" and completes any other
// request.
func (g *Group) call(ctx context.Context, r request, each func(response)) error {
	c, err := g.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	r.Version = wireVersion
	out := json.NewEncoder(c)
	if err := out.Encode(r); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		if r.Op != "up" || out.Encode(request{Version: wireVersion, Cancel: true}) != nil {
			c.Close()
		}
	})
	defer stop()
	in := json.NewDecoder(bufio.NewReader(c))
	for heard := false; ; heard = true {
		var got response
		if err := in.Decode(&got); err != nil {
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case !heard:
				err = errNoSupervisor // it was about to exit
			case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET):
				err = errors.New("its supervisor ended")
			}
			if tail := consoleTail(g.supervisorLog(), tailLines); len(tail) > 0 {
				err = fmt.Errorf("%w; the end of %s:\n  | %s", err, g.supervisorLog(), strings.Join(tail, "\n  | "))
			}
			return fmt.Errorf("%s: %w", g.Name, err)
		}
		if each != nil {
			each(got)
		}
		if got.Done {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return got.err()
		}
	}
}

func (g *Group) supervisorLog() string { return filepath.Join(g.State, supervisorLog) }

// startSupervisor starts the group's supervisor unless one runs. argv calls this
// program so that it runs [Supervise] with descriptor 3 as ready.
func (g *Group) startSupervisor(ctx context.Context, argv []string) error {
	if g.Supervised() {
		return nil
	}
	log, err := os.OpenFile(g.supervisorLog(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", argv[1:]...)
	cmd.Args = argv
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	defer context.AfterFunc(ctx, func() { r.Close() })()
	io.Copy(io.Discard, r) // returns when the supervisor is ready or has ended
	select {
	case <-ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	default:
		return nil
	}
	var said, hints []string
	for _, l := range consoleTail(g.supervisorLog(), tailLines) {
		if h, ok := strings.CutPrefix(l, hintPrefix); ok {
			hints = append(hints, h)
		} else {
			said = append(said, l)
		}
	}
	return received("the supervisor ended at once: "+strings.Join(said, "; "), strings.Join(hints, "\n"))
}

// hintPrefix starts the lines of the supervisor's log that hold the next step of
// an error.
const hintPrefix = "hint: "

// supervisorTries limits the attempts to reach a supervisor. One that is just
// exiting does not count as running.
const supervisorTries = 3

// supervisorEnd is the longest time until a supervisor that refuses requests
// exits.
const supervisorEnd = 30 * time.Second

// Start makes the networks as described, and starts the machines that do not run
// yet. Notes about the networks carry an empty machine name. supervisor is the
// argument vector by which this program runs [Supervise] with descriptor 3 as
// ready. The caller holds the group's lock.
func (g *Group) Start(ctx context.Context, supervisor []string, ns *Networks, machines []*Machine, o StartOptions) (err error) {
	for range supervisorTries {
		if err = g.startSupervisor(ctx, supervisor); err != nil {
			return err
		}
		if err = g.requestStart(ctx, ns, machines, o); !errors.Is(err, errNoSupervisor) {
			return err
		}
		// An exiting supervisor soon releases its lock. One that lost its socket
		// keeps the lock, and no other can start.
		for end := time.Now().Add(supervisorEnd); g.Supervised() && ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
			if time.Now().After(end) {
				return err
			}
		}
	}
	return err
}

func (g *Group) requestStart(ctx context.Context, ns *Networks, machines []*Machine, o StartOptions) error {
	err := g.call(ctx, request{Op: "up", Up: &upRequest{ns, machines}, Timeout: o.Timeout}, func(r response) {
		switch {
		case r.Note != "":
			o.Note(r.Machine, r.Note)
		case r.Ready:
			o.Report(r.Machine)
		}
	})
	if err != nil {
		return errors.Join(err, g.settle(context.WithoutCancel(ctx)))
	}
	return nil
}

// Shutdown ends machines in parallel and reports each. The supervisor exits with
// the last machine of the group. timeout limits each of the gentle methods; 0
// skips them. The caller holds the group's lock.
func (g *Group) Shutdown(ctx context.Context, machines []string, timeout time.Duration, report func(Down)) error {
	if !g.Supervised() {
		var errs []error
		for _, m := range machines {
			if err := g.tidy(m, false); err != nil {
				errs = append(errs, fmt.Errorf("%s/%s: %w", g.Name, m, err))
				continue
			}
			report(Down{Machine: m})
		}
		return errors.Join(errs...)
	}
	err := g.call(ctx, request{Op: "down", Machines: machines, Timeout: timeout}, func(r response) {
		if r.Down != nil {
			report(*r.Down)
		}
	})
	if err != nil {
		return err
	}
	return g.settle(ctx)
}

// settle waits until a supervisor without machines has exited.
func (g *Group) settle(ctx context.Context) error {
	for g.Supervised() {
		names, err := g.Machines()
		if err != nil {
			return err
		}
		for _, n := range names {
			if g.alive(n) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// Info returns the status of machines, in their order.
func (g *Group) Info(ctx context.Context, machines []string) ([]Status, error) {
	found := make(map[string]Status)
	if g.Supervised() {
		err := g.call(ctx, request{Op: "status", Machines: machines}, func(r response) {
			if r.Status != nil {
				found[r.Machine] = *r.Status
			}
		})
		if err != nil {
			// An exiting supervisor accepts no requests.
			if serr := g.settle(ctx); serr != nil || g.Supervised() {
				return nil, errors.Join(err, serr)
			}
		}
	}
	var all []Status
	for _, m := range machines {
		s, ok := found[m]
		if !ok {
			// The machines of a killed supervisor end within moments.
			for end := time.Now().Add(5 * time.Second); g.alive(m) && time.Now().Before(end); time.Sleep(time.Millisecond) {
			}
			var err error
			if s, err = g.info(ctx, m); err != nil {
				return nil, err
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// CheckNetworks tries every path between the networks with real packets.
func (g *Group) CheckNetworks(ctx context.Context) ([]network.Result, error) {
	var results []network.Result
	err := g.running(g.call(ctx, request{Op: "check"}, func(r response) { results = append(results, r.Results...) }))
	return results, err
}

// Dial connects to a TCP port of a machine.
func (g *Group) Dial(ctx context.Context, machine string, port uint16) (net.Conn, error) {
	f, err := g.DialFile(ctx, machine, port)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileConn(f)
}

// DialFile is [Group.Dial] for callers that need an open file.
func (g *Group) DialFile(ctx context.Context, machine string, port uint16) (*os.File, error) {
	c, err := g.connect(ctx)
	if err != nil {
		return nil, g.notRunning(machine)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := json.NewEncoder(c).Encode(request{Version: wireVersion, Op: "dial", Machines: []string{machine}, Port: port}); err != nil {
		return nil, err
	}
	b := make([]byte, maxPacket)
	n, f, err := receiveFile(c, b)
	if err != nil {
		return nil, err
	}
	var r response
	if err := json.Unmarshal(b[:n], &r); err != nil {
		return nil, errors.Join(err, closeIf(f))
	}
	if err := r.err(); err != nil || f == nil {
		return nil, errors.Join(cmp.Or(err, errors.New("the supervisor sent no connection")), closeIf(f))
	}
	return f, nil
}

func closeIf(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// Login logs in to a machine.
func (g *Group) Login(ctx context.Context, machine string) (*cryptossh.Client, error) {
	if !g.alive(machine) {
		return nil, g.notRunning(machine)
	}
	r, err := g.readRecord(machine)
	if err != nil {
		return nil, err
	}
	h, err := g.host(machine, r.User, 0)
	if err != nil {
		return nil, err
	}
	h.Dial = func(ctx context.Context) (net.Conn, error) { return g.Dial(ctx, machine, 22) }
	return h.Connect(ctx)
}
