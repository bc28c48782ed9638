// This file starts a sandbox, waits for its end and translates its status into
// an error.

package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// Stdio holds the process's standard streams. A nil Stdin is empty, a nil Stdout
// or Stderr discards the output.
type Stdio struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run starts the spec's process in a new sandbox and waits for its end. All
// processes that it started are dead when Run returns, and soon after the
// calling program is killed. If the process ran and failed, the error is an
// *[ExitError]. If the context ended first, the error is the context's cause.
// Any other error is a failure to set up the sandbox.
func Run(ctx context.Context, s Spec, stdio Stdio) error {
	if err := s.resolve(); err != nil {
		return err
	}
	wire := struct {
		Spec
		Emulator string `json:"emulator,omitempty"`
	}{Spec: s}
	if s.Foreign != "" {
		var err error
		if wire.Emulator, err = Emulator(s.Foreign); err != nil {
			return err
		}
	}
	config, err := json.Marshal(wire)
	if err != nil {
		return err
	}
	runCtx, cancel := ctx, context.CancelFunc(func() {})
	if s.Timeout > 0 {
		runCtx, cancel = context.WithTimeout(ctx, s.Timeout)
	}
	defer cancel()
	st, err := start(runCtx, s, config, stdio)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case runCtx.Err() != nil:
		return &ExitError{Status: st, TimedOut: s.Timeout}
	case err != nil:
		return fmt.Errorf("sandbox: %w", err)
	case st.Error != "":
		err := fmt.Errorf("sandbox: %s", st.Error)
		if st.Hint != "" {
			err = hint.Add(err, "%s", st.Hint)
		}
		return err
	case st.Exit != 0 || st.Signal != 0:
		return &ExitError{Status: st}
	}
	return nil
}

// resolve follows the symbolic links in all host paths, because the sandbox
// would follow them in the wrong root.
func (s *Spec) resolve() (err error) {
	if s.Root != "" {
		if s.Root, err = filepath.EvalSymlinks(s.Root); err != nil {
			return fmt.Errorf("sandbox: root: %w", err)
		}
	}
	mounts := make([]Mount, len(s.Mounts))
	for i, m := range s.Mounts {
		if m.Source != "" {
			if m.Source, err = filepath.EvalSymlinks(m.Source); err != nil {
				return fmt.Errorf("sandbox: mount %s: %w", m.Target, err)
			}
		}
		mounts[i] = m
	}
	s.Mounts = mounts
	return nil
}

func start(ctx context.Context, s Spec, config []byte, stdio Stdio) (st Status, err error) {
	configR, configW, err := os.Pipe()
	if err != nil {
		return st, err
	}
	defer configR.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		configW.Close()
		return st, err
	}
	defer statusR.Close()

	cmd := exec.CommandContext(ctx, "/proc/self/exe", SandboxArg)
	cmd.Args[0] = "meros"
	cmd.Env = []string{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.Stdin, stdio.Stdout, stdio.Stderr
	cmd.ExtraFiles = []*os.File{configR, statusW}
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: s.namespaces(), Pdeathsig: unix.SIGKILL}
	if s.Foreign != "" {
		if err := ownUserNamespace(cmd.SysProcAttr); err != nil {
			return st, err
		}
	}
	// A daemon that holds the output open cannot outlive its pid namespace, so
	// the pipes are closed in time. The delay bounds the wait for other holders.
	cmd.WaitDelay = 10 * time.Second

	// The kernel sends Pdeathsig when the forking thread ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	statusW.Close()
	if err != nil {
		configW.Close()
		return st, startHint(err)
	}
	if s.Network == UserNetwork {
		detach, err := AttachUserNetwork(ctx, cmd.Process.Pid)
		if err != nil {
			configW.Close() // this ends the sandbox
			cmd.Wait()
			return st, fmt.Errorf("network: %w", err)
		}
		defer detach()
	}
	go func() { configW.Write(config); configW.Close() }()
	var report bytes.Buffer
	io.Copy(&report, statusR)
	err = cmd.Wait()
	if json.Unmarshal(report.Bytes(), &st) == nil {
		return st, nil
	}
	if err == nil {
		err = errors.New("sandbox init exited without reporting a status")
	}
	return st, err
}

// namespaces returns the clone(2) flags for s. They do not include a user
// namespace: the whole program enters one where it needs it, see also
// [ownUserNamespace].
func (s Spec) namespaces() uintptr {
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC)
	if s.Network != HostNetwork {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

// startHint adds the next step to an error of clone(2).
func startHint(err error) error {
	if errors.Is(err, unix.EPERM) {
		return hint.Add(fmt.Errorf("create namespaces: %w", err),
			"run as root, or allow unprivileged user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns")
	}
	return err
}

// Printable replaces control characters, so that s cannot control a terminal.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
}
