// This file defines the messages between clients, the inner and the outer
// process. It does not act on them.

package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
	"meros/runner/network"
)

// wireVersion changes with what the two sides say to each other: a supervisor
// lives on when meros is replaced.
const wireVersion = 2

// lasting are the requests that are the same in all versions, so that a new
// meros can tell of an old one's machines, reach them and end them.
var lasting = []string{"down", "status", "dial"}

// request is what a client asks of a supervisor, one for each connection.
type request struct {
	Version  int
	Op       string        // "up", "down", "status", "dial", "check", "save", "restore", "forget", "snapshots"
	Name     string        `json:",omitempty"` // of a snapshot
	Up       *upRequest    `json:",omitempty"`
	Machines []string      `json:",omitempty"`
	Timeout  time.Duration `json:"Patience,omitempty"`
	Port     uint16        `json:",omitempty"` // of a machine, to dial
	Cancel   bool          `json:",omitempty"` // follows "up": undo what was begun
}

// upRequest is all that a group is to have.
type upRequest struct {
	Networks *Networks
	Machines []*Machine // those to start
}

// answer is a line of a supervisor; the last one has Done.
type response struct {
	Machine   string           `json:",omitempty"`
	Note      string           `json:",omitempty"`
	Ready     bool             `json:",omitempty"`
	Status    *Status          `json:",omitempty"`
	Down      *Down            `json:",omitempty"`
	Snapshots []Snapshot       `json:",omitempty"`
	Results   []network.Result `json:"Proofs,omitempty"`
	Error     string           `json:",omitempty"`
	Hint      string           `json:",omitempty"` // next steps of the error, one a line; older supervisors send none
	Done      bool             `json:",omitempty"`
}

// lastResponse returns the last response to a request that ended with err, which may
// be nil.
func lastResponse(err error) response {
	r := response{Done: true}
	if err != nil {
		r.Error, r.Hint = err.Error(), hint.Of(err)
	}
	return r
}

// err returns the error that a supervisor reports, with its hints.
func (r response) err() error { return received(r.Error, r.Hint) }

// received returns the error that another process described, or nil.
func received(text, hints string) error {
	switch {
	case text == "":
		return nil
	case hints == "":
		return errors.New(text)
	}
	return hint.Add(errors.New(text), "%s", hints)
}

// socketAddress names a socket by its directory: a path may be longer than
// the 108 bytes of a socket's address, unix(7).
func socketAddress(file string) (address string, done func(), err error) {
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(file)), func() { dir.Close() }, nil
}

// sendFile sends bytes and an open file with them.
func sendFile(c *net.UnixConn, b []byte, f *os.File) error {
	_, _, err := c.WriteMsgUnix(b, unix.UnixRights(int(f.Fd())), nil)
	return err
}

// receiveFile reads a message and the file that came with it, which may be nil.
func receiveFile(c *net.UnixConn, b []byte) (n int, f *os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return n, nil, err
	}
	if n == 0 && oobn == 0 {
		return 0, nil, errors.New("the other side has gone")
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return n, nil, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			if f != nil {
				f.Close()
			}
			f = os.NewFile(uintptr(fd), "received")
		}
	}
	return n, f, nil
}

// pair is a connection between the two processes of a supervisor: a question
// and its answer at a time, each a packet.
type pair struct{ conn *net.UnixConn }

// newPair makes both ends; the second is for a child.
func newPair() (*pair, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "pair"), os.NewFile(uintptr(fds[1]), "pair")
	p, err := openPair(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return p, theirs, nil
}

func openPair(f *os.File) (*pair, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("it is no unix socket")
	}
	return &pair{u}, nil
}

// maxPacket bounds a packet of a pair.
const maxPacket = 64 << 10

func (p *pair) send(v any, f *os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if f != nil {
		return sendFile(p.conn, b, f)
	}
	_, err = p.conn.Write(b)
	return err
}

func (p *pair) receive(v any) (*os.File, error) {
	b := make([]byte, maxPacket)
	n, f, err := receiveFile(p.conn, b)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b[:n], v); err != nil {
		if f != nil {
			f.Close()
		}
		return nil, err
	}
	return f, nil
}
