// This file is the verb pull: it copies files out of a machine, which may be hostile.

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"time"

	"meros/runner/layer"
	"meros/runner/ssh"
)

type pullCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       string   `arg:"" help:"Name of the machine."`
	Files         []string `arg:"" name:"src" help:"Files and directories on the machine, relative to mos-shared in the home directory. The last of several is the directory here (default: mos-shared)."`
}

// Run implements the verb.
func (c *pullCmd) Run(e *env) error {
	from, to := split(c.Files)
	s, err := login(e, c.Constellation, c.Machine)
	if err != nil {
		return err
	}
	defer s.client.Close()
	line := "set -e\ns=\nif tar --version 2>/dev/null | grep -q GNU; then s=-S; fi\n" + findBulk + "echo ${c:+bulk}\nread -r token\n" + bulkOut + "exec tar -c $s -f -"
	for _, src := range from {
		dir, name := path.Split(path.Clean(src))
		if name == "" {
			name = "."
		}
		if !path.IsAbs(dir) {
			line += ` -C "$HOME"/` + ssh.Quote(path.Join(exchangeDir, dir))
		} else {
			line += " -C " + ssh.Quote(dir)
		}
		line += " " + ssh.Quote("./"+name)
	}
	if err := s.Start(line + " >&3"); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	port, err := openBulk(e.ctx, s.group, c.Machine, readOffer(s.out)["bulk"], s.in)
	if err != nil {
		return err
	}
	count := &copied{ui: e.ui, what: "pull " + c.Constellation + "/" + c.Machine, began: time.Now()}
	in := layer.NewReceiver(to, from, func(text string) { e.ui.note("%s", printable(text)) })
	err = s.receiveFrom(e.ctx, in, port, count)
	if err != nil {
		err = fmt.Errorf("copy out of %s/%s: %w", c.Constellation, c.Machine, err)
	}
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	if err != nil {
		return err
	}
	count.say()
	return nil
}

// receiveFrom unpacks the archive from the port, or from the session if port is nil, and
// waits for the end of the command.
func (s *session) receiveFrom(ctx context.Context, to *layer.Receiver, port *bulk, count *copied) error {
	var from io.Reader = s.out
	var err error
	if port != nil {
		defer port.Close()
		from = bufio.NewReaderSize(port, 256<<10)
	}
	ended := make(chan error, 1)
	go func() {
		werr := s.Wait()
		if port != nil && werr != nil {
			port.Close() // the machine sends no more
		}
		ended <- werr
	}()
	if port != nil {
		err = port.expectToken()
	}
	if err == nil {
		err = to.Receive(ctx, io.TeeReader(from, count))
	}
	if err != nil {
		s.client.Close() // it may have more to send
	} else {
		go io.Copy(io.Discard, from) // the rest of the last record
	}
	if werr := <-ended; werr != nil && (err == nil || !errors.Is(werr, net.ErrClosed) && s.said.Len() > 0) {
		err = fmt.Errorf("%w: %s", werr, s.complaint())
	}
	return err
}
