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
)

// Monitor is a connection to a machine's QMP socket, docs/interop/qmp-spec of
// QEMU. It serves one caller at a time, as does the socket.
type Monitor struct {
	conn net.Conn
	in   *json.Decoder
}

// reply is any message that QEMU sends.
type reply struct {
	QMP    json.RawMessage `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

// Dial connects to the socket and negotiates. The path may be longer than
// the 108 bytes of a socket address, unix(7): it is reached through its
// directory.
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
	var greeting reply
	if err := m.in.Decode(&greeting); err != nil || greeting.QMP == nil {
		return m.failure(ctx, "greeting", errors.Join(err, errors.New("this is no QMP socket")))
	}
	return m.Execute(ctx, "qmp_capabilities", nil, nil)
}

// watch makes the end of ctx end what is being read or written.
func (m *Monitor) watch(ctx context.Context) func() {
	m.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { m.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// Execute runs a command and stores what it returns in out, which may be nil.
// args may be nil; else it marshals to an object.
func (m *Monitor) Execute(ctx context.Context, command string, args, out any) error {
	defer m.watch(ctx)()
	request := map[string]any{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	if err := json.NewEncoder(m.conn).Encode(request); err != nil {
		return m.failure(ctx, command, err)
	}
	for {
		var r reply
		if err := m.in.Decode(&r); err != nil {
			return m.failure(ctx, command, err)
		}
		switch {
		case r.Event != "":
			continue
		case r.Error != nil:
			return fmt.Errorf("qmp: %s: %s (%s)", command, r.Error.Desc, r.Error.Class)
		case out == nil:
			return nil
		}
		if err := json.Unmarshal(r.Return, out); err != nil {
			return fmt.Errorf("qmp: %s: %w", command, err)
		}
		return nil
	}
}

func (m *Monitor) failure(ctx context.Context, command string, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("qmp: %s: %w", command, err)
}

// Close ends the connection; the machine goes on.
func (m *Monitor) Close() error { return m.conn.Close() }
