// This file is the ssh client of meros itself. It accepts only the machine's own
// key and never reads the user's configuration.

package ssh

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// Host is a guest's sshd, with the address and the keys for a login.
type Host struct {
	Name    string                                  // for messages, and the alias of the host key
	Address string                                  // host:port
	Dial    func(context.Context) (net.Conn, error) // if set, replaces a connection to Address
	User    string
	Control string // socket file by which calls of ssh(1) share a connection, or ""
	Key     *Key   // the user's
	HostKey *Key   // the guest's, the only accepted one
}

// handshakeTimeout is the longest time for a server's first line, and then again
// for keys and login. Emulated guests need a second or more for each.
const handshakeTimeout = 20 * time.Second

// Banner returns sshd's first line without logging in. It fails if the line does
// not arrive within timeout.
func (h *Host) Banner(ctx context.Context, timeout time.Duration) (string, error) {
	conn, line, err := h.dial(ctx, timeout)
	if err != nil {
		return "", err
	}
	conn.Close()
	return line, nil
}

// peeked is a connection whose first bytes are buffered in r.
type peeked struct {
	net.Conn
	r io.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

func (h *Host) dial(ctx context.Context, timeout time.Duration) (net.Conn, string, error) {
	end := time.Now().Add(timeout)
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
		err = fmt.Errorf("%s answers %q instead of an ssh greeting", h.Name, line)
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else if len(line) == 0 && (errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET)) {
			err = fmt.Errorf("%w: %w", errDropped, err)
		}
		return nil, "", err
	}
	n := r.Buffered()
	all, _ := r.Peek(n)
	first, _, _ := bytes.Cut(all, []byte("\r\n"))
	return &peeked{conn, r}, string(first), nil
}

// ErrHostKey means that a server presented another key than the guest's, so that
// the server is not the guest.
var ErrHostKey = errors.New("the server's key is not the machine's")

// errDropped means that the server closed the connection before its greeting.
// sshd does that at random while too many connections are not logged in,
// MaxStartups of sshd_config(5). Attempts to find out whether a guest is ready
// are such connections.
var errDropped = errors.New("the server closed the connection before its greeting")

// The time for which dropped connections are retried, and the pause before each
// attempt.
const (
	dropTimeout = 15 * time.Second
	dropPause   = 250 * time.Millisecond
)

// whileDropped repeats try as long as it fails by errDropped.
func whileDropped(ctx context.Context, try func() error) error {
	for end := time.Now().Add(dropTimeout); ; {
		err := try()
		if !errors.Is(err, errDropped) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(dropPause):
		}
	}
}

// Connect logs in to a running server. It tries again if the server drops the
// connection.
func (h *Host) Connect(ctx context.Context) (c *ssh.Client, err error) {
	err = whileDropped(ctx, func() (err error) {
		c, err = h.Try(ctx, handshakeTimeout)
		return err
	})
	return c, err
}

// Greeted returns a connection to a running server whose greeting has arrived and
// is still to be read. If the greeting takes too long, it returns the connection
// anyway. It tries again if the server drops the connection.
func Greeted(ctx context.Context, dial func() (*os.File, error)) (f *os.File, err error) {
	err = whileDropped(ctx, func() (err error) {
		f.Close() // from the last attempt, may be nil
		if f, err = dial(); err != nil {
			return err
		}
		if err := greets(f, handshakeTimeout); errors.Is(err, errDropped) {
			return err
		}
		return nil
	})
	if err == nil || errors.Is(err, errDropped) {
		return f, nil // ssh(1) reports any other failure
	}
	f.Close()
	return nil, err
}

// greets waits until the connection has a byte to read. It leaves the byte there.
func greets(f *os.File, timeout time.Duration) error {
	c, err := net.FileConn(f)
	if err != nil {
		return err
	}
	defer c.Close()
	sc, ok := c.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(timeout))
	n, perr := 0, error(nil)
	err = raw.Read(func(fd uintptr) bool {
		n, _, perr = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK)
		return perr != unix.EAGAIN
	})
	if err == nil && (n == 0 && perr == nil || perr == unix.ECONNRESET) {
		return errDropped
	}
	return errors.Join(err, perr)
}

// Try logs in once. The server's greeting must arrive within timeout: QEMU's
// forwarder accepts connections long before the guest can answer.
func (h *Host) Try(ctx context.Context, timeout time.Duration) (*ssh.Client, error) {
	conn, _, err := h.dial(ctx, timeout)
	if err != nil {
		return nil, fmt.Errorf("ssh %s: %w", h.Name, err)
	}
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
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

// Run logs in, runs a command line and returns its standard output.
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
