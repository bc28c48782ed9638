// Package lab runs the real program in throw-away projects, for tests and
// benchmarks.
package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Skip skips a test that cannot run on this host. In CI the test fails instead.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot run here: "+format, args...)
	}
	t.Skipf(format, args...)
}

// NeedRoot skips the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root")
	}
}

// Need skips the test if a program is missing.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			Skip(t, "needs the program %s; ./dist-conf.sh installs it", p)
		}
	}
}

// InMemory returns a temporary directory in memory, which is on another file
// system than most files.
func InMemory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "meros-test-")
	if err != nil {
		Skip(t, "%v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "meros-lab-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	file := filepath.Join(dir, "meros")
	cmd := exec.Command("go", "build", "-o", file, "meros/cmd/meros")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return file, nil
})

// Program returns the path of meros. It builds the program once, as a user does.
func Program(t testing.TB) string {
	t.Helper()
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// ForeignProgram builds meros for another architecture, beside [Program]. goarch
// is Go's name of the architecture, arch is QEMU's.
func ForeignProgram(t testing.TB, goarch, arch string) {
	t.Helper()
	BuildFor(t, Program(t)+"-"+arch, "meros/cmd/meros", goarch)
}

// BuildFor builds a package as a static program for an architecture, in Go's
// name.
func BuildFor(t testing.TB, file, pkg, goarch string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+goarch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
}

// Close removes the program that [Program] built. TestMain calls it.
func Close() {
	if file, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(file))
	}
}

// Project is a root directory: it holds constellations/ and data/.
type Project struct {
	Root   string
	shares bool // it shares files with other projects, so it cannot change its owner
}

// New makes a project with the given files, named relative to its root. Files
// whose names end in ".chroot" are executable.
func New(t testing.TB, files map[string]string) *Project {
	t.Helper()
	return In(t, t.TempDir(), files)
}

// In makes the project in an existing directory.
func In(t testing.TB, root string, files map[string]string) *Project {
	t.Helper()
	for d := root; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755) // for tests that run as another user
	}
	p := &Project{Root: root}
	if err := os.MkdirAll(p.Path("constellations"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		p.Write(t, name, text)
	}
	return p
}

// Path returns the path of a file in the project.
func (p *Project) Path(name string) string { return filepath.Join(p.Root, name) }

// Write makes or replaces a file.
func (p *Project) Write(t testing.TB, name, text string) {
	t.Helper()
	file := p.Path(name)
	perm := os.FileMode(0o644)
	if strings.HasSuffix(name, ".chroot") {
		perm = 0o755
	}
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, []byte(text), perm)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Event is a line of --progress=json.
type Event struct {
	Event, Node, Stage, Text, Line, Error string
	Seconds, T                            float64
}

// Outcome is the result of a run of the program.
type Outcome struct {
	Exit           int
	Stdout, Stderr string
	Wall           time.Duration
	MaxRSS         int64 // bytes
	Events         []Event
}

// Ran returns the names of the nodes that ran, without fetches.
func (o *Outcome) Ran() []string {
	var names []string
	for _, e := range o.Events {
		if e.Event == "ran" && e.Stage != "fetch" {
			names = append(names, e.Node)
		}
	}
	return names
}

// Stage returns how long the nodes of a stage took in total, and when the last
// one ended. Both are in seconds.
func (o *Outcome) Stage(name string) (seconds, ended float64) {
	for _, e := range o.Events {
		if e.Event == "ran" && e.Stage == name {
			seconds, ended = seconds+e.Seconds, max(ended, e.T)
		}
	}
	return seconds, ended
}

// Command returns a command that runs meros in the project with --progress=json.
// It scales the timeout of init as [Timeout] does.
func (p *Project) Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	if boots := len(args) > 0 && args[0] == "init" && os.Getenv(SlowEnv) != ""; boots && !slices.ContainsFunc(args, isWait) {
		args = append(slices.Clone(args), "--wait="+Timeout(t, 5*time.Minute).String())
	}
	return exec.Command(Program(t), append([]string{"--root", p.Root, "--progress=json"}, args...)...)
}

func isWait(arg string) bool { return strings.HasPrefix(arg, "--wait") }

// Run runs the program and returns its outcome, also if it fails.
func (p *Project) Run(t testing.TB, args ...string) *Outcome {
	t.Helper()
	return Finish(t, p.Command(t, args...))
}

// Finish runs a command to its end and returns its outcome.
func Finish(t testing.TB, cmd *exec.Cmd) *Outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	o := &Outcome{Exit: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String(), Wall: time.Since(start)}
	o.MaxRSS = int64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) << 10
	lines := bufio.NewScanner(&stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			o.Events = append(o.Events, e)
		}
	}
	return o
}

// Must runs the program and fails the test if the program fails.
func (p *Project) Must(t testing.TB, args ...string) *Outcome {
	t.Helper()
	o := p.Run(t, args...)
	if o.Exit != 0 {
		t.Fatalf("meros %s: exit status %d\n%s%s", strings.Join(args, " "), o.Exit, o.Stdout, o.Stderr)
	}
	return o
}

// LockedDigests returns the digests of the packages in a lock, each once.
func LockedDigests(lock []byte) (sums []string) {
	seen := make(map[string]bool)
	for line := range strings.Lines(string(lock)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "package" && !seen[f[len(f)-1]] {
			seen[f[len(f)-1]] = true
			sums = append(sums, f[len(f)-1])
		}
	}
	return sums
}

// Allocated returns the disk space that the files below dir use, in bytes. It
// counts each inode once.
func Allocated(t testing.TB, dir string) int64 {
	t.Helper()
	seen := make(map[uint64]bool)
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if st := fi.Sys().(*syscall.Stat_t); !seen[st.Ino] {
			seen[st.Ino] = true
			sum += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// Time runs a command, which must succeed, and returns how long it took.
func Time(t testing.TB, name string, args ...string) time.Duration {
	t.Helper()
	start := time.Now()
	if out, err := exec.CommandContext(context.Background(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return time.Since(start)
}
