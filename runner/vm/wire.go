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

// wireVersion is the version of the messages. It changes with them, because a
// supervisor runs on when meros is replaced.
const wireVersion = 2

// lasting lists the requests that are the same in all versions, so that every
// meros can show, reach and end the machines of another version.
var lasting = []string{"down", "status", "dial"}

// request is the message from a client to a supervisor, one per connection.
type request struct {
	Version  int
	Op       string        // "up", "down", "status", "dial", "check", "save", "restore", "forget", "snapshots"
	Name     string        `json:",omitempty"` // name of a snapshot
	Up       *upRequest    `json:",omitempty"`
	Machines []string      `json:",omitempty"`
	Timeout  time.Duration `json:"Patience,omitempty"`
	Port     uint16        `json:",omitempty"` // port of the machine to dial
	Cancel   bool          `json:",omitempty"` // in a second message: undo the "up"
}

// upRequest describes all networks of a group, and the machines to start.
type upRequest struct {
	Networks *Networks
	Machines []*Machine
}

// response is a message from a supervisor, one a line. The last one has Done set.
type response struct {
	Machine   string           `json:",omitempty"`
	Note      string           `json:",omitempty"`
	Ready     bool             `json:",omitempty"`
	Status    *Status          `json:",omitempty"`
	Down      *Down            `json:",omitempty"`
	Snapshots []Snapshot       `json:",omitempty"`
	Results   []network.Result `json:"Proofs,omitempty"`
	Error     string           `json:",omitempty"`
	Hint      string           `json:",omitempty"` // next steps after the error, one a line; old supervisors send none
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

// received returns the error that another process sent, with its hints, or nil.
func received(text, hints string) error {
	switch {
	case text == "":
		return nil
	case hints == "":
		return errors.New(text)
	}
	return hint.Add(errors.New(text), "%s", hints)
}

// socketAddress returns an address of a socket by way of its open directory, until
// done is called. A path may exceed the 108 bytes of an address, unix(7).
func socketAddress(file string) (address string, done func(), err error) {
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(file)), func() { dir.Close() }, nil
}

// sendFile sends bytes together with an open file.
func sendFile(c *net.UnixConn, b []byte, f *os.File) error {
	_, _, err := c.WriteMsgUnix(b, unix.UnixRights(int(f.Fd())), nil)
	return err
}

// receiveFile reads a message and the file that came with it, if any.
func receiveFile(c *net.UnixConn, b []byte) (n int, f *os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return n, nil, err
	}
	if n == 0 && oobn == 0 {
		return 0, nil, errors.New("the other side closed the connection")
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

// pair is a connection between the two processes of a supervisor. It carries one
// request and its response at a time, each in one packet.
type pair struct{ conn *net.UnixConn }

// newPair makes both ends of a pair. The second end is for a child process.
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
		return nil, errors.New("not a unix socket")
	}
	return &pair{u}, nil
}

// maxPacket is the largest packet of a pair in bytes.
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
