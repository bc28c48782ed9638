// This file shows the windows of programs in machines on the Wayland compositor of
// this host, through waypipe(1). It does not run ssh(1): it returns the options and
// the command that its caller passes to ssh.

package ssh

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// Compositor reports whether a Wayland compositor shows windows for this process.
func Compositor() bool {
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

// Waypipe is the end of waypipe on this host.
type Waypipe struct {
	dir    string // private; it holds the socket
	remote string // the socket in the machine
	cmd    *exec.Cmd
	ended  chan struct{}
	stderr strings.Builder
}

// waypipeArgs are those of both ends. A machine has no graphics processor.
var waypipeArgs = []string{"--no-gpu", "--compress", "lz4"}

// waypipeTimeout is how long waypipe may take to listen.
const waypipeTimeout = 5 * time.Second

// StartWaypipe starts waypipe and waits until it listens. dir must be private, empty, and
// short: its socket's path has at most 107 bytes, unix(7). The caller removes dir
// after Close.
func StartWaypipe(ctx context.Context, dir string) (*Waypipe, error) {
	var id [12]byte
	rand.Read(id[:])
	w := &Waypipe{dir: dir, remote: "/tmp/.meros-waypipe-" + hex.EncodeToString(id[:]), ended: make(chan struct{})}
	w.cmd = exec.CommandContext(ctx, "waypipe", append(waypipeArgs, "--socket", w.socket(), "client")...)
	w.cmd.Stderr = &w.stderr
	w.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := w.cmd.Start(); err != nil {
		return nil, hint.Add(fmt.Errorf("show windows: %w", err), "`apt install waypipe` installs it on Debian; --no-gui runs the program without windows")
	}
	go func() { w.cmd.Wait(); close(w.ended) }()
	timeout := time.After(waypipeTimeout)
	for {
		if _, err := os.Stat(w.socket()); err == nil {
			return w, nil
		}
		var err error
		select {
		case <-w.ended:
			err = fmt.Errorf("waypipe ended: %s", strings.TrimSpace(w.stderr.String()))
		case <-timeout:
			err = fmt.Errorf("waypipe does not listen after %v", waypipeTimeout)
		case <-time.After(2 * time.Millisecond):
			continue
		}
		w.Close()
		return nil, err
	}
}

func (w *Waypipe) socket() string { return filepath.Join(w.dir, "s") }

// Options make ssh(1) listen in the machine and forward to the socket of waypipe on this host.
func (w *Waypipe) Options() []string {
	return []string{"-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes", "-R", w.remote + ":" + w.socket()}
}

// Command returns the shell line that runs the program in the machine behind the
// other end, and leaves nothing there. The line exits with the status of the
// program, which waypipe's own status is not.
func (w *Waypipe) Command(program []string) string {
	server := append(append([]string{"waypipe"}, waypipeArgs...), "--socket", w.remote, "server", "--", "sh", "-c", `"$@"; echo $? > "$MEROS_STATUS"`, "sh")
	return `s=` + Quote(w.remote) + `; d=$(mktemp -d) || exit 1
trap 'rm -rf "$d" "$s"' EXIT
trap 'exit 129' HUP INT TERM PIPE
command -v waypipe >/dev/null || { echo "meros: waypipe is not installed in the machine" >&2; echo "hint: add waypipe to its packages, or use --no-gui" >&2; exit 127; }
export MEROS_STATUS="$d/status" XDG_SESSION_TYPE=wayland
if ! test -d "$XDG_RUNTIME_DIR" || ! test -w "$XDG_RUNTIME_DIR"; then export XDG_RUNTIME_DIR="$d"; fi
` + Line(append(server, program...)) + `
status=$?
exit "$(cat "$d/status" 2>/dev/null || echo $status)"`
}

// Close ends waypipe.
func (w *Waypipe) Close() {
	w.cmd.Process.Kill()
	<-w.ended
}
