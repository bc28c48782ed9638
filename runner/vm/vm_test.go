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

// A process that has got a dead machine's number is left alone; the machine's
// own is not.
func TestKillOnlyOnesOwn(t *testing.T) {
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
		t.Fatalf("a stranger was killed: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	own := &record{PID: cmd.Process.Pid, Start: start, Boot: bootID()}
	if err := own.kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("it was not killed")
	}
	if err := own.kill(unix.SIGKILL); err != nil {
		t.Errorf("of a dead process: %v", err)
	}
}

// A machine lives as long as a process has its lock open.
func TestAlive(t *testing.T) {
	g := newGroup(t)
	if g.alive("m") {
		t.Error("it lives before it was ever started")
	}
	if err := os.MkdirAll(g.dir("m"), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := openLock(g.file("m", lockFile))
	if err != nil {
		t.Fatal(err)
	}
	if g.alive("m") {
		t.Error("it lives although nobody holds its lock")
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
		t.Error("it does not live although its process does")
	}
	if _, err := g.ConnectArgv("m", nil, nil, nil); err == nil {
		t.Error("a machine without a record can be connected to")
	}
	cmd.Process.Kill()
	cmd.Wait()
	if g.alive("m") {
		t.Error("it lives although its process is dead")
	}
	if _, err := g.ConnectArgv("m", nil, nil, nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("%v", err)
	}
}

// Of those who start or stop machines at once, one waits, until it is told
// not to.
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
		t.Errorf("%v after %d words", err, waited)
	}
	unlock()
	if unlock, err = g.Lock(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// Secrets are made once, belong to the user alone, and reach the guest with
// the modes that its programs insist on.
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
			t.Errorf("%s is another one the second time", name)
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
		"ssh does not answer after 1s: the first attempt is still under way (the machine": nil,
		"ssh does not answer after 1s: refused (the machine":                              errors.New("refused"),
		"it can be logged in to, but is not ready after 1s: tcp 80: refused (the machine": probeError{errors.New("tcp 80: refused")},
	} {
		if got := notReady(time.Second, last).Error(); !strings.HasPrefix(got, want) {
			t.Errorf("%v: %s", last, got)
		}
	}
}

// A button is pressed until the machine ends, a command is given once.
func TestPressedAgain(t *testing.T) {
	l := newTestLauncher(t)
	if err := os.MkdirAll(l.dir("m"), 0o700); err != nil {
		t.Fatal(err)
	}
	for again, want := range map[time.Duration]int{time.Millisecond: 3, 0: 0} {
		lock, err := openLock(l.file("m", lockFile))
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := tryLock(lock); err != nil || !ok {
			t.Fatal(ok, err)
		}
		pressed := 0
		step := downStep{"acpi", 50 * time.Millisecond, again, func(context.Context) error {
			if pressed++; pressed == 3 {
				lock.Close() // it has heard
			}
			return errors.New("is not asked")
		}}
		if again > 0 {
			step.wait = time.Minute
		}
		if ended := l.took(t.Context(), "m", step); ended != (want > 0) || pressed != want {
			t.Errorf("again after %v: ended: %v, pressed %d times", again, ended, pressed)
		}
		lock.Close()
	}
}

// Who clears a machine's directory while its end is written down finds nothing
// of it afterwards, and the end of an earlier start is no later one's.
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
			t.Fatalf("there is %+v, %v", r, err)
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
		t.Errorf("without a log: %q", got)
	}
}

// Whatever a guest writes, a terminal does nothing of it.
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
