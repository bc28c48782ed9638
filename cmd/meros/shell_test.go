// This file tests the shell that a failed hook opens.

package main

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"meros/bench/lab"
)

// TestShellOnError checks that --shell-on-error opens a shell in the system in
// which a hook failed.
func TestShellOnError(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	p := lab.Built(t, "lab")
	p.Write(t, "constellations/lab/manifest.yml", "virtual_machines:\n  m: {suite: bookworm}\n")
	p.Write(t, "constellations/lab/m/hooks/0100-bad.chroot", "#!/bin/sh\necho made-by-the-hook >/opt/made\nexit 3\n")
	out, _ := exec.Command(lab.Program(t), "--root", p.Root, "build", "lab", "--rootfs-only", "--shell-on-error").CombinedOutput()
	if !strings.Contains(string(out), "needs a terminal") {
		t.Errorf("without a terminal: %s", out)
	}
	cmd := exec.Command(lab.Program(t), "--root", p.Root, "--progress=plain", "build", "lab", "--rootfs-only", "--shell-on-error")
	tty, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	var said bytes.Buffer
	asked := false
	buf := make([]byte, 4096)
	for {
		n, err := tty.Read(buf)
		said.Write(buf[:n])
		if !asked && strings.Contains(said.String(), "(meros) #") {
			asked = true
			defer time.AfterFunc(lab.Timeout(t, 2*time.Minute), func() {
				out, err := exec.Command("ps", "-eo", "pid,ppid,pgid,tpgid,stat,wchan:20,args", "--forest").CombinedOutput()
				t.Logf("the shell hangs, the processes are (error %v)\n%s", err, out)
				cmd.Process.Kill()
			}).Stop()
			io.WriteString(tty, "cat /opt/made; test -e /run/meros/0100-bad.chroot && echo script-is-here; exit\n")
		}
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
		t.Errorf("meros ended with %v, want exit status %d", err, exitFailed)
	}
	for _, want := range []string{"hooks/0100-bad.chroot: exit status 3", "This is the system in which /run/meros/0100-bad.chroot failed", "made-by-the-hook\r\n", "script-is-here\r\n"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("there is no %q in the output\n%s", want, said.String())
		}
	}
	if strings.Contains(said.String(), "\x1b]meros;") {
		t.Errorf("the terminal shows progress marks: %q", said.String())
	}
}
