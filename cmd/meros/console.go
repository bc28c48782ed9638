// This file is the verb console: it joins the terminal with the serial line of a
// machine.

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// escapeKey, control and the closing bracket, leaves a console, as in telnet(1).
const escapeKey = 0x1d

type consoleCmd struct {
	Constellation string `arg:"" help:"Name of the constellation."`
	Machine       string `arg:"" help:"Name of the machine."`
}

// Run implements the verb.
func (c *consoleCmd) Run(e *env) error {
	g, err := groupOf(e, c.Constellation, c.Machine)
	if err != nil {
		return err
	}
	conn, err := g.DialConsole(e.ctx, c.Machine)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(e.ctx, func() { conn.Close() })()
	fd := int(os.Stdin.Fd())
	if term.IsTerminal(fd) {
		e.ui.note("%s/%s: connected to the console, control-] leaves it", g.Name, c.Machine)
		old, err := term.MakeRaw(fd)
		if err != nil {
			return err
		}
		defer term.Restore(fd, old)
	}
	e.ui.close()
	return talk(conn, os.Stdin, os.Stdout)
}

// talkSilence is how long a console must be silent after the end of the input to count
// as finished with the last line.
const talkSilence = time.Second

// talk copies both ways until the machine ends, the user types the escape key, or the
// input has ended and the console is silent.
func talk(conn net.Conn, in io.Reader, out io.Writer) error {
	over := make(chan error, 1)
	said := make(chan struct{}, 1)
	go func() {
		b := make([]byte, 32<<10)
		for {
			n, err := conn.Read(b)
			if _, werr := out.Write(b[:n]); werr != nil {
				err = werr
			}
			if err != nil {
				over <- err
				return
			}
			select {
			case said <- struct{}{}:
			default:
			}
		}
	}()
	typed := make(chan error, 1)
	go func() { typed <- typeInto(conn, in) }()
	var silence <-chan time.Time
	for {
		select {
		case err := <-over:
			if err == io.EOF || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		case err := <-typed:
			if err != io.EOF {
				return err
			}
			silence = time.After(talkSilence)
		case <-said:
			if silence != nil {
				silence = time.After(talkSilence)
			}
		case <-silence:
			return nil
		}
	}
}

// typeInto copies the input until the escape key. It returns [io.EOF] at the end of the
// input.
func typeInto(conn io.Writer, in io.Reader) error {
	b := make([]byte, 1024)
	for {
		n, err := in.Read(b)
		typed, _, leave := strings.Cut(string(b[:n]), string(rune(escapeKey)))
		if typed != "" {
			if _, werr := io.WriteString(conn, typed); werr != nil {
				err = werr
			}
		}
		if leave {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
