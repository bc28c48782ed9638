package ssh

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// Host is a guest's sshd and how to get in.
type Host struct {
	Name    string                                  // for messages and as the key's alias
	Address string                                  // host:port
	Dial    func(context.Context) (net.Conn, error) // if set, how it is reached instead
	User    string
	Control string // file: socket by which ssh(1) shares a connection that is open for a while; or ""
	Key     *Key   // ours
	HostKey *Key   // the guest's: no other is accepted
}

// handshakeWait is how long a server that is there has for its first line, and
// then for keys and login. Emulated guests need a second or more for each.
const handshakeWait = 20 * time.Second

// Banner asks who is there, without logging in, and returns sshd's first line,
// which has to come before wait is over.
func (h *Host) Banner(ctx context.Context, wait time.Duration) (string, error) {
	conn, line, err := h.dial(ctx, wait)
	if err != nil {
		return "", err
	}
	conn.Close()
	return line, nil
}

// peeked gives back what was read ahead.
type peeked struct {
	net.Conn
	r io.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

func (h *Host) dial(ctx context.Context, wait time.Duration) (net.Conn, string, error) {
	end := time.Now().Add(wait)
	dial := h.Dial
	if dial == nil {
		d := net.Dialer{Deadline: end}
		dial = func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", h.Address) }
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, "", err
	}
	conn.SetDeadline(end)
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	r := bufio.NewReader(conn)
	line, err := r.Peek(4)
	if err == nil && string(line) != "SSH-" {
		err = fmt.Errorf("%s answers %q, which is not ssh", h.Name, line)
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, "", err
	}
	n := r.Buffered()
	all, _ := r.Peek(n)
	first, _, _ := bytes.Cut(all, []byte("\r\n"))
	return &peeked{conn, r}, string(first), nil
}

// ErrHostKey is the failure of a server that shows another key than the
// guest's: something else answers.
var ErrHostKey = errors.New("the server's key is not the machine's")

// Connect logs in to a server that is there.
func (h *Host) Connect(ctx context.Context) (*ssh.Client, error) {
	return h.Try(ctx, handshakeWait)
}

// Try logs in if the server greets before wait is over: QEMU's forwarder accepts
// connections long before there is a guest to answer.
func (h *Host) Try(ctx context.Context, wait time.Duration) (*ssh.Client, error) {
	conn, _, err := h.dial(ctx, wait)
	if err != nil {
		return nil, fmt.Errorf("ssh %s: %w", h.Name, err)
	}
	conn.SetDeadline(time.Now().Add(handshakeWait))
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	want := h.HostKey.signer.PublicKey()
	c, chans, reqs, err := ssh.NewClientConn(conn, h.Name, &ssh.ClientConfig{
		User: h.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(h.Key.signer)},
		HostKeyAlgorithms: []string{want.Type()},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if !bytes.Equal(key.Marshal(), want.Marshal()) {
				return ErrHostKey
			}
			return nil
		},
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ssh %s: %w", h.Name, err)
	}
	conn.SetDeadline(time.Time{})
	return ssh.NewClient(c, chans, reqs), nil
}

// Run logs in, runs a command line there and returns what it prints.
func (h *Host) Run(ctx context.Context, command string) ([]byte, error) {
	c, err := h.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	s, err := c.NewSession()
	if err != nil {
		return nil, fmt.Errorf("ssh %s: %w", h.Name, err)
	}
	defer s.Close()
	out, err := s.Output(command)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return out, fmt.Errorf("ssh %s: %s: %w", h.Name, command, err)
	}
	return out, nil
}
