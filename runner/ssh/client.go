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

// ErrHostKey is the failure of a server that shows another key than the
// guest's: something else answers.
var ErrHostKey = errors.New("the server's key is not the machine's")

// errDropped is the failure of a connection that ends before a server greets.
// sshd does that at random while it has many whose login is not over, MaxStartups
// of sshd_config(5): as those are by which it was tried whether a guest is ready.
var errDropped = errors.New("the server closed the connection before it said anything")

// How long a server that is there is tried again, and the pause between two tries.
const (
	dropPatience = 15 * time.Second
	dropPause    = 250 * time.Millisecond
)

// whileDropped tries until it is not for a dropped connection that it fails.
func whileDropped(ctx context.Context, try func() error) error {
	for end := time.Now().Add(dropPatience); ; {
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

// Connect logs in to a server that is there.
func (h *Host) Connect(ctx context.Context) (c *ssh.Client, err error) {
	err = whileDropped(ctx, func() (err error) {
		c, err = h.Try(ctx, handshakeWait)
		return err
	})
	return c, err
}

// Greeted gives a connection of a server that is there, on which it has said
// something that is still to be read, or takes more than its time to.
func Greeted(ctx context.Context, dial func() (*os.File, error)) (f *os.File, err error) {
	err = whileDropped(ctx, func() (err error) {
		f.Close() // of the try before, if any
		if f, err = dial(); err != nil {
			return err
		}
		if err := greets(f, handshakeWait); errors.Is(err, errDropped) {
			return err
		}
		return nil
	})
	if err == nil || errors.Is(err, errDropped) {
		return f, nil // ssh(1) finds out what else there is
	}
	f.Close()
	return nil, err
}

// greets waits until something can be read.
func greets(f *os.File, wait time.Duration) error {
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
	c.SetReadDeadline(time.Now().Add(wait))
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
