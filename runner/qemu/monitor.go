// This file speaks QMP, QEMU's machine protocol. It does not know what its
// commands mean.

package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
	"github.com/digitalocean/go-qemu/qmp/raw"
)

// Monitor is a connection to a machine's QMP socket, see docs/interop/qmp-spec of
// QEMU. Like the socket, it serves one caller at a time.
type Monitor struct {
	conn   net.Conn
	in     *json.Decoder
	events []qmp.Event // received while waiting for a response
}

// message is any message from QEMU.
type message struct {
	QMP    json.RawMessage `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	qmp.Event
}

// Dial connects to the socket and negotiates. It reaches the socket through its
// directory, because a path may exceed the 108 bytes of a socket address,
// unix(7).
func Dial(ctx context.Context, socket string) (*Monitor, error) {
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return nil, fmt.Errorf("qmp: %w", err)
	}
	defer dir.Close()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket)))
	if err != nil {
		return nil, fmt.Errorf("qmp: %s: %w", socket, errors.Unwrap(err))
	}
	m := &Monitor{conn: conn, in: json.NewDecoder(bufio.NewReader(conn))}
	if err := m.negotiate(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

func (m *Monitor) negotiate(ctx context.Context) error {
	defer m.watch(ctx)()
	var greeting message
	if err := m.in.Decode(&greeting); err != nil || greeting.QMP == nil {
		return m.failure(ctx, errors.Join(err, errors.New("not a QMP socket")))
	}
	_, err := m.run(ctx, []byte(`{"execute":"qmp_capabilities"}`))
	return err
}

// watch interrupts reads and writes when ctx ends, until the returned function is
// called.
func (m *Monitor) watch(ctx context.Context) func() {
	m.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { m.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// run sends a command and returns the response. It sets events aside.
func (m *Monitor) run(ctx context.Context, command []byte) ([]byte, error) {
	defer m.watch(ctx)()
	if _, err := m.conn.Write(append(command, '\n')); err != nil {
		return nil, m.failure(ctx, err)
	}
	for {
		var response json.RawMessage
		var r message
		err := m.in.Decode(&response)
		if err == nil {
			err = json.Unmarshal(response, &r)
		}
		switch {
		case err != nil:
			return nil, m.failure(ctx, err)
		case r.Event.Event != "":
			m.events = append(m.events, r.Event)
		case r.Error != nil:
			return nil, fmt.Errorf("qmp: %s (%s)", r.Error.Desc, r.Error.Class)
		default:
			return response, nil
		}
	}
}

// Commands returns QEMU's commands as typed functions. They fail once ctx ends.
func (m *Monitor) Commands(ctx context.Context) *raw.Monitor {
	return raw.NewMonitor(bound{m, ctx})
}

// bound adapts a Monitor to go-qemu. The library's own monitor fails on responses
// over 64 KiB, loses events and waits forever.
type bound struct {
	*Monitor
	ctx context.Context
}

var _ qmp.Monitor = bound{}

// Connect implements qmp.Monitor. The monitor is connected already.
func (b bound) Connect() error { return nil }

// Disconnect implements qmp.Monitor.
func (b bound) Disconnect() error { return b.Close() }

// Run implements qmp.Monitor.
func (b bound) Run(command []byte) ([]byte, error) { return b.run(b.ctx, command) }

// Events implements qmp.Monitor. It sends the events set aside so far, then new
// ones until the context or the connection ends. No command may run meanwhile.
func (b bound) Events(ctx context.Context) (<-chan qmp.Event, error) {
	c := make(chan qmp.Event)
	go func() {
		defer close(c)
		defer b.watch(ctx)()
		for {
			var r message
			if len(b.events) > 0 {
				r.Event, b.events = b.events[0], b.events[1:]
			} else if b.in.Decode(&r) != nil {
				return
			}
			select {
			case c <- r.Event:
			case <-ctx.Done():
				return
			}
		}
	}()
	return c, nil
}

func (m *Monitor) failure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("qmp: %w", err)
}

// Close ends the connection. The machine runs on.
func (m *Monitor) Close() error { return m.conn.Close() }
