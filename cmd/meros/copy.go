// This file holds the shared half of push and pull: a session on the machine, and the
// count of the bytes.

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	cryptossh "golang.org/x/crypto/ssh"

	"meros/runner/vm"
)

// exchangeDir is the default directory of copies: in the home directory on the machine, and
// in the working directory here.
const exchangeDir = "mos-shared"

// copied counts and shows the bytes of a copy.
type copied struct {
	ui    *ui
	what  string
	total int64 // bytes; 0 means unknown
	done  int64
	began time.Time
}

// Write implements io.Writer. It only counts.
func (c *copied) Write(b []byte) (int, error) {
	c.done += int64(len(b))
	of := ""
	if c.total > 0 {
		of = " of " + bytesText(c.total)
	}
	c.ui.transient(fmt.Sprintf("%s: %s%s, %s/s", c.what, bytesText(c.done), of, bytesText(c.rate())))
	return len(b), nil
}

func (c *copied) rate() int64 {
	return int64(float64(c.done) / max(time.Since(c.began).Seconds(), 0.001))
}

func (c *copied) say() {
	c.ui.note("%s: %s in %s, %s/s", c.what, bytesText(c.done), seconds(time.Since(c.began)), bytesText(c.rate()))
}

// split splits SRC... [DEST]: the last of several words is the destination.
func split(words []string) (from []string, to string) {
	if len(words) == 1 {
		return words, exchangeDir
	}
	return words[:len(words)-1], words[len(words)-1]
}

// session is an ssh session, with pipes to and from its command.
type session struct {
	*cryptossh.Session
	group  *vm.Group
	client *cryptossh.Client
	in     io.WriteCloser
	out    *bufio.Reader
	said   strings.Builder // standard error
}

// complaint returns what the command wrote to standard error, as one line.
func (s *session) complaint() string {
	return printable(strings.Join(strings.FieldsFunc(s.said.String(), func(r rune) bool { return r == '\n' }), "; "))
}

// login opens a session on a machine.
func login(e *env, constellation, machine string) (*session, error) {
	g, err := groupOf(e, constellation, machine)
	if err != nil {
		return nil, err
	}
	client, err := g.Login(e.ctx, machine)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(e.ctx, func() { client.Close() })
	s := &session{group: g, client: client}
	if s.Session, err = client.NewSession(); err == nil {
		s.Stderr = &s.said
		s.in, err = s.StdinPipe()
	}
	if err == nil {
		var out io.Reader
		out, err = s.StdoutPipe()
		s.out = bufio.NewReaderSize(out, 64<<10)
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return s, nil
}
