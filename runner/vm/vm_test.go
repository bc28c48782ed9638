// This file tests records, locks, secrets and the end of machines.

package vm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
	"meros/runner/initrd"
	"meros/runner/qemu"
)

func newGroup(t *testing.T) *Group {
	t.Helper()
	dir := t.TempDir()
	return &Group{Name: "lab", State: filepath.Join(dir, "state"), Keys: filepath.Join(dir, "ssh", "lab"), SSH: filepath.Join(dir, "ssh", "id")}
}

// newTestLauncher returns a launcher whose machines need no adaptation.
func newTestLauncher(t *testing.T) *launcher {
	t.Helper()
	return newLauncher(newGroup(t), func(*Machine, *qemu.Machine) {}, func(pid int) (int, error) { return pid, nil })
}

// kill ends the machine's own process, but not one that reuses the process id of a
// dead machine.
func TestKillSparesOthers(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer cmd.Process.Kill()
	start, err := processStart(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*record{
		"another start": {PID: cmd.Process.Pid, Start: start + 1, Boot: bootID()},
		"another boot":  {PID: cmd.Process.Pid, Start: start, Boot: "x"},
		"no process":    {PID: 1 << 30, Start: start, Boot: bootID()},
	} {
		if err := r.kill(unix.SIGKILL); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("kill ended another process: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	own := &record{PID: cmd.Process.Pid, Start: start, Boot: bootID()}
	if err := own.kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the process was not killed")
	}
	if err := own.kill(unix.SIGKILL); err != nil {
		t.Errorf("kill of a dead process: %v", err)
	}
}

// A machine is alive as long as a process has its lock open.
func TestAlive(t *testing.T) {
	g := newGroup(t)
	if g.alive("m") {
		t.Error("the machine is alive before its first start")
	}
	if err := os.MkdirAll(g.dir("m"), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := openLock(g.file("m", lockFile))
	if err != nil {
		t.Fatal(err)
	}
	if g.alive("m") {
		t.Error("the machine is alive although no process holds its lock")
	}
	if ok, err := tryLock(lock); !ok || err != nil {
		t.Fatal(ok, err)
	}
	cmd := exec.Command("sleep", "60")
	cmd.ExtraFiles = []*os.File{lock}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	if !g.alive("m") {
		t.Error("the machine is not alive although its process is")
	}
	if _, err := g.ConnectArgv("m", nil, nil, nil); err == nil {
		t.Error("ConnectArgv accepted a machine without a record")
	}
	cmd.Process.Kill()
	cmd.Wait()
	if g.alive("m") {
		t.Error("the machine is alive although its process is dead")
	}
	if _, err := g.ConnectArgv("m", nil, nil, nil); !errors.Is(err, ErrNotRunning) || hint.Of(err) != "`meros init lab m` starts it" {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}

// A second process waits for the group's lock until its context ends.
func TestGroupLock(t *testing.T) {
	g := newGroup(t)
	unlock, err := g.Lock(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	waited := 0
	if _, err := g.Lock(ctx, func() { waited++ }); !errors.Is(err, context.DeadlineExceeded) || waited != 1 {
		t.Errorf("%v after %d calls of busy", err, waited)
	}
	unlock()
	if unlock, err = g.Lock(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// Secrets are made once, only the user can read them, and the guest's files have
// the modes that its programs require.
func TestSecrets(t *testing.T) {
	l := newTestLauncher(t)
	files := func() (names []string, all map[string]initrd.File) {
		t.Helper()
		h, err := l.host("m", "me", 1)
		if err != nil {
			t.Fatal(err)
		}
		list, err := l.secrets(&Machine{Name: "m", User: "me"}, h)
		if err != nil {
			t.Fatal(err)
		}
		all = make(map[string]initrd.File)
		for _, f := range list {
			names = append(names, f.Name)
			all[f.Name] = f
		}
		return names, all
	}
	names, first := files()
	want := []string{
		"etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "etc/ssh/sshd_config.d/00-meros.conf",
		"etc/ssh/meros_authorized_keys/me",
	}
	if !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if f := first["etc/ssh/ssh_host_ed25519_key"]; f.Mode != 0o600 || !strings.HasPrefix(string(f.Data), "-----BEGIN OPENSSH PRIVATE KEY-----\n") {
		t.Errorf("the host key has mode %o", f.Mode)
	}
	_, again := files()
	for _, name := range names {
		if string(first[name].Data) != string(again[name].Data) {
			t.Errorf("%s differs the second time", name)
		}
	}
	err := filepath.WalkDir(filepath.Dir(l.SSH), func(file string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 && !strings.HasSuffix(file, "ssh") {
			t.Errorf("%s has mode %o", file, fi.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNotReady(t *testing.T) {
	for want, last := range map[string]error{
		"ssh does not answer after 1s: the first attempt is still under way":      nil,
		"ssh does not answer after 1s: refused":                                   errors.New("refused"),
		"ssh answers, but the machine is not ready after 1s: port 80: it refused": probeError{errors.New("port 80: it refused")},
	} {
		got := notReady(time.Second, last)
		next := hint.Of(got)
		if got.Error() != want || !strings.HasPrefix(next, "the machine still runs") || strings.Contains(next, "openssh-server") == errors.As(last, new(probeError)) {
			t.Errorf("%v: %v, hint %q", last, got, next)
		}
	}
}

// The button is pressed until the machine ends, a command runs once.
func TestRepeatedButton(t *testing.T) {
	l := newTestLauncher(t)
	if err := os.MkdirAll(l.dir("m"), 0o700); err != nil {
		t.Fatal(err)
	}
	for repeat, want := range map[time.Duration]int{time.Millisecond: 3, 0: 0} {
		lock, err := openLock(l.file("m", lockFile))
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := tryLock(lock); err != nil || !ok {
			t.Fatal(ok, err)
		}
		pressed := 0
		step := downStep{"acpi", 50 * time.Millisecond, repeat, func(context.Context) error {
			if pressed++; pressed == 3 {
				lock.Close() // the machine ends
			}
			return errors.New("ignored")
		}}
		if repeat > 0 {
			step.wait = time.Minute
		}
		if ended := l.took(t.Context(), "m", step); ended != (want > 0) || pressed != want {
			t.Errorf("repeated after %v: ended: %v, pressed %d times", repeat, ended, pressed)
		}
		lock.Close()
	}
}

// A machine's directory stays empty if it is tidied while the machine's end is
// recorded. The end of an earlier process does not change a later one's record.
func TestEndWhileCleared(t *testing.T) {
	l := newTestLauncher(t)
	if err := os.MkdirAll(l.dir("m"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		r := &running{record: &record{PID: 7}}
		if err := l.writeRecord("m", r.record); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { l.ended("m", r) })
		if err := l.tidy("m", false); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if r, err := l.readRecord("m"); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the record came back: %+v, %v", r, err)
		}
	}
	if err := l.writeRecord("m", &record{PID: 8}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		pid  int
		want string
	}{{7, ""}, {8, exitOK}} {
		l.ended("m", &running{record: &record{PID: test.pid}})
		if r, err := l.readRecord("m"); err != nil || r.Exit != test.want {
			t.Errorf("after the end of %d: %+v, %v", test.pid, r, err)
		}
	}
}

func TestConsoleTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "console")
	for text, want := range map[string][]string{
		"":                               nil,
		"one\r\n\r\ntwo\r\nthree":        {"two", "three"},
		"\x1b[0;32m  OK  \x1b[0m done\n": {"  OK   done"},
		"a\x1b]0;title\x07b\nx\x1b":      {"a]0;titleb", "x"},
		"end\x1b[":                       {"end"},
		strings.Repeat("x", 40<<10) + "\nlast line\n": {strings.Repeat("x", 16<<10-11), "last line"},
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := consoleTail(file, 2); !slices.Equal(got, want) {
			t.Errorf("%.40q: %.60q, want %.60q", text, got, want)
		}
	}
	if got := consoleTail(file+"2", 2); got != nil {
		t.Errorf("consoleTail without a log: %q", got)
	}
}

// The tail of a console holds no control character, whatever a guest writes.
func FuzzConsoleTail(f *testing.F) {
	f.Add([]byte("\x1b[2J\x1b]52;c;x\x07\x9b31m"))
	f.Add([]byte("\x1b[\x1b[[[m"))
	f.Add([]byte("\u009b2J one\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file := filepath.Join(t.TempDir(), "console")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, l := range consoleTail(file, 5) {
			if i := strings.IndexFunc(l, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }); i >= 0 {
				t.Errorf("%q at %d of %q", l[i], i, l)
			}
		}
	})
}
