package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/cache"
	"meros/runner/ssh"
)

type runCmd struct {
	NoGUI         bool     `name:"no-gui" help:"Do not show its windows here."`
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       string   `arg:"" help:"Name of the machine."`
	Program       []string `arg:"" passthrough:"" help:"The program there and its arguments. Its exit status becomes that of meros."`
}

// Run implements the verb: a program of a machine whose windows are shown by
// the compositor of this host, through waypipe(1).
func (c *runCmd) Run(e *env) error {
	g, err := groupOf(e, c.Constellation, c.Machine)
	if err != nil {
		return err
	}
	program := c.Program
	if len(program) > 0 && program[0] == "--" {
		program = program[1:]
	}
	if len(program) == 0 {
		return usageError{errors.New("run: which program?")}
	}
	command := ssh.Line(program)
	var more []string
	if !c.NoGUI && compositor() {
		w, err := startWaypipe(e)
		if err != nil {
			return err
		}
		defer w.close()
		more, command = w.options(), w.command(program)
	} else if !c.NoGUI {
		e.ui.note("no Wayland compositor is here (WAYLAND_DISPLAY): %s runs without windows", program[0])
	}
	through, err := proxy(e, g.Name, c.Machine)
	if err != nil {
		return err
	}
	argv, err := g.ConnectArgv(c.Machine, through, more, []string{command})
	if err != nil {
		return err
	}
	e.ui.close()
	cmd := exec.CommandContext(e.ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	err = cmd.Run()
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exitStatus(exit.ExitCode())
	}
	return err
}

// compositor tells whether a Wayland compositor shows windows for this
// process.
func compositor() bool {
	display := os.Getenv("WAYLAND_DISPLAY")
	if display == "" {
		return false
	}
	if !filepath.IsAbs(display) {
		display = filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), display)
	}
	fi, err := os.Stat(display)
	return err == nil && fi.Mode()&os.ModeSocket != 0
}

// waypipe is the end of a waypipe that is on this host.
type waypipe struct {
	dir    *cache.Scratch // private, with the socket
	remote string         // the socket in the machine
	cmd    *exec.Cmd
	ended  chan struct{}
	said   strings.Builder
}

// waypipeArgs are those of both ends: without a graphics processor, which a
// machine does not have.
var waypipeArgs = []string{"--no-gpu", "--compress", "lz4"}

// waypipeWait is how long waypipe may take to listen.
const waypipeWait = 5 * time.Second

func startWaypipe(e *env) (*waypipe, error) {
	// The path of a socket is short, unix(7); that of the data directory may not be.
	parent := e.scratchDir()
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		parent = filepath.Join(d, "meros")
	}
	if _, err := cache.Reclaim(parent); err != nil {
		return nil, err
	}
	dir, err := cache.NewScratch(parent)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir.Dir(), 0o700); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	var id [12]byte
	rand.Read(id[:])
	w := &waypipe{dir: dir, remote: "/tmp/.meros-waypipe-" + hex.EncodeToString(id[:]), ended: make(chan struct{})}
	w.cmd = exec.CommandContext(e.ctx, "waypipe", append(waypipeArgs, "--socket", w.socket(), "client")...)
	w.cmd.Stderr = &w.said
	w.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := w.cmd.Start(); err != nil {
		dir.Close()
		return nil, fmt.Errorf("%w: it shows windows of machines (Debian: apt install waypipe; --no-gui does without)", err)
	}
	go func() { w.cmd.Wait(); close(w.ended) }()
	give := time.After(waypipeWait)
	for {
		if _, err := os.Stat(w.socket()); err == nil {
			return w, nil
		}
		select {
		case <-w.ended:
			err = fmt.Errorf("waypipe ended: %s", strings.TrimSpace(w.said.String()))
		case <-give:
			err = fmt.Errorf("waypipe does not listen after %v", waypipeWait)
		case <-time.After(2 * time.Millisecond):
			continue
		}
		w.close()
		return nil, err
	}
}

func (w *waypipe) socket() string { return filepath.Join(w.dir.Dir(), "s") }

// options make ssh(1) listen in the machine for what goes to our socket.
func (w *waypipe) options() []string {
	return []string{"-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes", "-R", w.remote + ":" + w.socket()}
}

// command is the line that runs the program in the machine behind the other
// end, and leaves nothing there. waypipe's own exit status is not the
// program's.
func (w *waypipe) command(program []string) string {
	server := append(append([]string{"waypipe"}, waypipeArgs...), "--socket", w.remote, "server", "--", "sh", "-c", `"$@"; echo $? > "$MEROS_STATUS"`, "sh")
	return `s=` + ssh.Quote(w.remote) + `; d=$(mktemp -d) || exit 1
trap 'rm -rf "$d" "$s"' EXIT
trap 'exit 129' HUP INT TERM PIPE
command -v waypipe >/dev/null || { echo "meros: waypipe is not in the machine (packages: [waypipe] in its manifest; --no-gui does without)" >&2; exit 127; }
export MEROS_STATUS="$d/status" XDG_SESSION_TYPE=wayland
if ! test -d "$XDG_RUNTIME_DIR" || ! test -w "$XDG_RUNTIME_DIR"; then export XDG_RUNTIME_DIR="$d"; fi
` + ssh.Line(append(server, program...)) + `
status=$?
exit "$(cat "$d/status" 2>/dev/null || echo $status)"`
}

func (w *waypipe) close() {
	w.cmd.Process.Kill()
	<-w.ended
	w.dir.Close()
}
