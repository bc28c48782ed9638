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
)

// Stdio is what the process's standard streams are connected to. A nil
// Stdin reads nothing, a nil Stdout or Stderr is discarded.
type Stdio struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run starts the spec's process in a new sandbox and waits for its end. All
// processes it has started are dead when Run returns, however it returns, and
// also soon after the calling program was killed. The error is an
// *[ExitError] if the process ran and failed, the context's cause if that
// ended first, and else says what could not be set up.
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
		return fmt.Errorf("sandbox: %s", st.Error)
	case st.Exit != 0 || st.Signal != 0:
		return &ExitError{Status: st}
	}
	return nil
}

// resolve follows the symbolic links of all host paths: inside, they would be
// followed in the wrong root.
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
	// A daemon that kept the output open cannot outlive its pid namespace, so
	// the pipes do end; this is for what the host's own descriptors hold.
	cmd.WaitDelay = 10 * time.Second

	// Pdeathsig is sent when the thread that forked ends, not the process.
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
			configW.Close() // and with it the sandbox
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
		err = errors.New("it ended without a word")
	}
	return st, err
}

// namespaces are the clone(2) flags for s. A user namespace is not among
// them: the program as a whole enters one where it needs it; see also
// [ownUserNamespace].
func (s Spec) namespaces() uintptr {
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC)
	if s.Network != HostNetwork {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

func startHint(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (namespaces cannot be made here: run as root, or allow unprivileged user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)", err)
	}
	return err
}

// Printable replaces what could make a terminal do things.
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
