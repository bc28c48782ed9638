// This file is the verb logs: it prints the console output of machines.

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

type logsCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       []string `arg:"" optional:"" help:"Machines (default: all)."`
	Follow        bool     `short:"f" help:"Continue to print new output until interrupted."`
}

// Run implements the verb.
func (c *logsCmd) Run(e *env) error {
	m, g, err := findGroup(e, c.Constellation)
	if err != nil {
		return err
	}
	machines, err := withRemoved(m, g, c.Machine)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(machine, line string) {
		mu.Lock()
		defer mu.Unlock()
		if len(machines) > 1 {
			line = machine + " | " + line
		}
		e.ui.say("%s", printable(line))
	}
	var wg sync.WaitGroup
	errs := make([]error, len(machines))
	for i, vmachine := range machines {
		read := func() {
			errs[i] = tail(e.ctx, g.Console(vmachine.Name), c.Follow, func(l string) { say(vmachine.Name, l) })
		}
		if c.Follow {
			wg.Go(read)
		} else {
			read()
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// followPause is the time between two reads of a log that is followed.
const followPause = 100 * time.Millisecond

// tail calls line for each line of a file. With follow, it continues until ctx ends as
// the file grows, or starts again when the file is truncated.
func tail(ctx context.Context, file string, follow bool, line func(string)) error {
	var part strings.Builder
	var at int64
	for {
		f, err := os.Open(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err == nil {
			fi, serr := f.Stat()
			if serr == nil && fi.Size() < at {
				at = 0 // the machine was started again
			}
			b, rerr := io.ReadAll(io.NewSectionReader(f, at, 1<<62))
			f.Close()
			if err := errors.Join(serr, rerr); err != nil {
				return err
			}
			at += int64(len(b))
			for l := range strings.Lines(string(b)) {
				part.WriteString(l)
				if strings.HasSuffix(l, "\n") {
					line(strings.TrimRight(part.String(), "\r\n"))
					part.Reset()
				}
			}
		}
		if !follow {
			if part.Len() > 0 {
				line(part.String())
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followPause):
		}
	}
}
