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

// A failed hook opens a shell in the system in which it failed.
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
				t.Logf("it stands still: %v\n%s", err, out)
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
		t.Errorf("%v", err)
	}
	for _, want := range []string{"hooks/0100-bad.chroot: exit status 3", "This is the system in which /run/meros/0100-bad.chroot failed", "made-by-the-hook\r\n", "script-is-here\r\n"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is not in %s", want, said.String())
		}
	}
	if strings.Contains(said.String(), "\x1b]meros;") {
		t.Errorf("marks are shown: %q", said.String())
	}
}
