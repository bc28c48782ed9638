package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"meros/constellations"
	"meros/runner/vm"
)

// againArgs are those of the verbs that start machines again.
type againArgs struct {
	Constellation string        `arg:"" help:"Name of the constellation."`
	Machine       []string      `arg:"" optional:"" help:"Only these machines."`
	Wait          time.Duration `default:"5m" help:"Longest a machine may take until ssh answers."`
}

func (a *againArgs) start(e *env, again vm.Again) error {
	_, err := (&initCmd{Constellation: a.Constellation, Machine: a.Machine, Wait: a.Wait, again: again}).up(e)
	return err
}

type (
	restartCmd struct{ againArgs }
	resetCmd   struct{ againArgs }
)

// Run implements the verb.
func (c *restartCmd) Run(e *env) error { return c.start(e, vm.Restart) }

// Run implements the verb.
func (c *resetCmd) Run(e *env) error { return c.start(e, vm.Reset) }

type logsCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       []string `arg:"" optional:"" help:"Only these machines."`
	Follow        bool     `short:"f" help:"Go on as the machines write more, until interrupted."`
}

// Run implements the verb: what machines wrote to their consoles.
func (c *logsCmd) Run(e *env) error {
	m, g, err := known(e, c.Constellation)
	if err != nil {
		return err
	}
	machines, err := withForgotten(m, g, c.Machine)
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

// followPause is how soon a follower looks again for more.
const followPause = 100 * time.Millisecond

// tail reads the lines of a file that may grow, or start anew.
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
				at = 0 // started again
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

// escapeKey ends a console, as in telnet(1): control and the closing bracket.
const escapeKey = 0x1d

type consoleCmd struct {
	Constellation string `arg:"" help:"Name of the constellation."`
	Machine       string `arg:"" help:"Name of the machine."`
}

// Run implements the verb: the machine's serial line, both ways.
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
		e.ui.note("%s/%s: its console; control-] leaves it", g.Name, c.Machine)
		old, err := term.MakeRaw(fd)
		if err != nil {
			return err
		}
		defer term.Restore(fd, old)
	}
	e.ui.close()
	return talk(conn, os.Stdin, os.Stdout)
}

// talkSilence is how long a console that has said nothing more is taken to be
// done with the last line of an input that has ended.
const talkSilence = time.Second

// talk copies both ways until the machine ends, or the escape key is typed, or
// the input is at its end and the answer to it, too.
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

// typeInto copies what is typed until the escape key; [io.EOF] is the input's end.
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

type viewCmd struct {
	Constellation string `arg:"" help:"Name of the constellation."`
	Machine       string `arg:"" help:"Name of a machine with display: true."`
}

// Run implements the verb: it becomes a viewer of the machine's screen.
func (c *viewCmd) Run(e *env) error {
	g, err := groupOf(e, c.Constellation, c.Machine)
	if err != nil {
		return err
	}
	socket, err := g.Screen(c.Machine)
	if err != nil {
		return err
	}
	viewer, err := exec.LookPath("vncviewer")
	if err != nil {
		return fmt.Errorf("no viewer is installed that takes a unix socket (Debian: apt install tigervnc-viewer); the screen is shown by VNC at %s", socket)
	}
	e.ui.close()
	return fmt.Errorf("start %s: %w", viewer, syscall.Exec(viewer, []string{viewer, socket}, os.Environ()))
}

type sshConfigCmd struct {
	Constellation string `arg:"" help:"Name of the constellation."`
}

// Run implements the verb.
func (c *sshConfigCmd) Run(e *env) error {
	m, err := constellations.Find(e.root, c.Constellation)
	if err != nil {
		return usageIfMissing(err)
	}
	g := group(e, m.Name)
	for i := range m.Machines {
		vmachine := &m.Machines[i]
		through, err := proxy(e, m.Name, vmachine.Name)
		if err != nil {
			return err
		}
		text, err := g.SSHConfig(vmachine.Name, vmachine.User, through)
		if err != nil {
			return fmt.Errorf("%s/%s: %w", m.Name, vmachine.Name, err)
		}
		e.ui.say("%s", text)
	}
	return nil
}
