// This file tests sandboxes: what a process in one sees, how it ends, and that
// it cannot escape.

package runner_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/bench/lab"
	"meros/runner"
	"meros/runner/hint"
	"meros/runner/sandbox"
)

// inUserNamespace is the environment variable that makes the tests run
// themselves in a user namespace.
const inUserNamespace = "MEROS_TEST_IN_USER_NAMESPACE"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == runner.SandboxArg {
		sandbox.Main()
		return
	}
	entered, err := sandbox.EnterUserNamespace()
	if err == nil && !entered && os.Getenv(inUserNamespace) != "" {
		var code int
		if code, err = sandbox.InUserNamespace(context.Background(), os.Args[1:]); err == nil {
			os.Exit(code)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// shell returns the spec of a script that uses the host's programs.
func shell(script string) runner.Spec {
	return runner.Spec{Argv: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}
}

// run returns the output of the process.
func run(t *testing.T, ctx context.Context, s runner.Spec, stdin io.Reader) (string, error) {
	t.Helper()
	lab.NeedRoot(t)
	var out bytes.Buffer
	err := runner.Run(ctx, s, runner.Stdio{Stdin: stdin, Stdout: &out, Stderr: &out})
	return out.String(), err
}

// All tests of the package pass for an ordinary user with subordinate ids.
func TestOrdinaryUser(t *testing.T) {
	if os.Getenv(inUserNamespace) != "" {
		return
	}
	p := lab.New(t, nil)
	program := p.Path("runner.test")
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	alpine := lab.AlpineRootFS(t, foreign)
	if b, err = os.ReadFile(alpine); err == nil {
		err = os.WriteFile(p.Path(filepath.Base(alpine)), b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := p.AsUser(t, lab.UserOptions{}, exec.Command(program, "-test.v", "-test.timeout=0"))
	cmd.Env = append(cmd.Env, inUserNamespace+"=1", "TMPDIR="+p.Root, lab.AlpineDir+"="+p.Root)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestEscapes")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestEnds(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		want   runner.Status
	}{
		"well":        {"exit 0", runner.Status{}},
		"status":      {"exit 37", runner.Status{Exit: 37}},
		"signal":      {"kill -SEGV $$", runner.Status{Exit: 139, Signal: 11}},
		"killed":      {"kill -KILL $$", runner.Status{Exit: 137, Signal: 9}},
		"child first": {"(exit 3) & wait; exit 4", runner.Status{Exit: 4}},
	} {
		_, err := run(t, t.Context(), shell(test.script), nil)
		var exit *runner.ExitError
		if test.want == (runner.Status{}) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if !errors.As(err, &exit) || exit.Status != test.want {
			t.Errorf("%s: %v, want %+v", name, err, test.want)
		}
	}
	for name, test := range map[string]struct {
		change func(*runner.Spec)
		word   string
	}{
		"no program": {func(s *runner.Spec) { s.Argv[0] = "no-such-program" }, "no-such-program: no such program"},
		"no file":    {func(s *runner.Spec) { s.Argv[0] = "/no/such" }, "/no/such"},
		"no command": {func(s *runner.Spec) { s.Argv = nil }, "no command"},
		"no root":    {func(s *runner.Spec) { s.Root = "/no/such" }, "root: "},
		"no source":  {func(s *runner.Spec) { s.Mounts = []runner.Mount{{Source: "/no/such", Target: "/x"}} }, "mount /x: "},
	} {
		s := shell("exit 0")
		test.change(&s)
		var exit *runner.ExitError
		if _, err := run(t, t.Context(), s, nil); err == nil || errors.As(err, &exit) || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%s: %v, want %q", name, err, test.word)
		}
	}
}

func TestExitError(t *testing.T) {
	for _, test := range []struct {
		err        runner.ExitError
		text, hint string
	}{
		{runner.ExitError{Status: runner.Status{Exit: 3}}, "exit status 3", ""},
		{runner.ExitError{Status: runner.Status{Exit: 137, Signal: 9}}, "killed by SIGKILL", "the host may be out of memory, see dmesg"},
		{runner.ExitError{Status: runner.Status{Exit: 139, Signal: 11}}, "killed by SIGSEGV", ""},
		{runner.ExitError{Status: runner.Status{Exit: 162, Signal: 34}}, "killed by signal 34", ""},
		{runner.ExitError{Status: runner.Status{Exit: 137, Signal: 9}, TimedOut: time.Second}, "timed out after 1s", ""},
	} {
		err := fmt.Errorf("hook: %w", &test.err)
		if got := test.err.Error(); got != test.text || hint.Of(err) != test.hint {
			t.Errorf("%q, hint %q; want %q, %q", got, hint.Of(err), test.text, test.hint)
		}
	}
}

func TestSurroundings(t *testing.T) {
	t.Setenv("SECRET", "x")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("shown"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := shell(`cat; pwd; hostname; echo "$SECRET$MINE"; cat /shown/file; ls /tmp; touch /tmp/x /shown/y 2>&1 | grep -c "Read-only"; ls /dev`)
	s.Dir, s.Hostname, s.Env = "/usr", "inner", append(s.Env, "MINE=mine")
	s.Mounts = []runner.Mount{{Source: dir, Target: "/shown"}}
	out, err := run(t, t.Context(), s, strings.NewReader("stdin\n"))
	want := "stdin\n/usr\ninner\nmine\nshown1\nfd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"
	if err != nil || out != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
	s = shell("echo more > /shown/file && df -k --output=size /small | tail -1")
	s.Mounts = []runner.Mount{{Source: dir, Target: "/shown", Writable: true}, {Target: "/small", Size: 1 << 20}}
	out, err = run(t, t.Context(), s, nil)
	if b, _ := os.ReadFile(filepath.Join(dir, "file")); err != nil || strings.TrimSpace(out) != "1024" || string(b) != "more\n" {
		t.Errorf("%q, %q, %v", out, b, err)
	}
}

// sleepers returns the number of running sleep(1) processes with an argument.
func sleepers(seconds string) (found int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, _ := os.ReadFile(f); string(b) == "sleep\x00"+seconds+"\x00" {
			found++
		}
	}
	return found
}

// No process outlives its sandbox, whether that ends, times out or is canceled.
func TestNothingStays(t *testing.T) {
	const daemon = "setsid sh -c 'trap \"\" TERM HUP INT; sleep %s; sleep %[1]s' >/dev/null 2>&1 </dev/null & "
	for i, test := range []struct {
		name, script string
		timeout      time.Duration
		cancel       time.Duration
		check        func(error) bool
	}{
		{"end", "sleep 0.1; exit 0", 0, 0, func(err error) bool { return err == nil }},
		{"timeout", "sleep 1000", 300 * time.Millisecond, 0, func(err error) bool {
			exit := (*runner.ExitError)(nil)
			return errors.As(err, &exit) && exit.TimedOut == 300*time.Millisecond && err.Error() == "timed out after 300ms"
		}},
		{"cancel", "sleep 1000", 0, 300 * time.Millisecond, func(err error) bool { return errors.Is(err, errEnough) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if test.cancel > 0 {
				time.AfterFunc(test.cancel, func() { cancel(errEnough) })
			}
			seconds := fmt.Sprintf("98765.%d%d", os.Getpid(), i)
			s := shell(fmt.Sprintf(daemon, seconds) + test.script)
			s.Timeout = test.timeout
			if _, err := run(t, ctx, s, nil); !test.check(err) {
				t.Error(err)
			}
			if n := sleepers(seconds); n != 0 {
				t.Errorf("%d processes are still running", n)
			}
		})
	}
}

var errEnough = errors.New("enough")

// Foreign code cannot reach anything outside its sandbox.
func TestEscapes(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "marker"), []byte("host"), 0o666); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	var all strings.Builder
	for name, script := range map[string]string{
		"a mount":                "mount -t tmpfs x /tmp",
		"a bind mount":           "mount --bind /tmp /usr",
		"a remount":              "mount -o remount,rw,bind /usr",
		"a block device":         "mknod /tmp/d b 8 0 && head -c1 /tmp/d",
		"a character device":     "mknod /tmp/d c 1 1 && head -c1 /tmp/d",
		"the programs":           "echo x > /usr/bin/meros-was-here",
		"the old root":           "ls /old /proc/1/root/old",
		"the host's files":       "cat " + outside + "/marker",
		"by the first process":   "cat /proc/1/root" + outside + "/marker",
		"by the first's cwd":     "cat /proc/1/cwd" + outside + "/marker",
		"by a second chroot":     `perl -e 'mkdir "/tmp/j"; chroot "/tmp/j"; chdir ".." for 1..50; chroot "."; open F,"` + outside + `/marker" or exit 1'`,
		"sysctl":                 "echo 1 > /proc/sys/kernel/panic",
		"sysrq":                  "echo b > /proc/sysrq-trigger",
		"memory":                 "head -c1 /proc/kcore | grep -q .",
		"the keys":               "grep -q . /proc/keys",
		"another process":        fmt.Sprintf("kill -0 %d && test -d /proc/%[1]d/cwd", os.Getpid()+100000),
		"the host name":          "hostname evil",
		"the clock":              "date -s 2001-01-01",
		"the host's loopback":    fmt.Sprintf(`perl -e 'use Socket; socket(S,PF_INET,SOCK_STREAM,0); connect(S,sockaddr_in(%d,inet_aton("127.0.0.1"))) or exit 1'`, port),
		"an interface":           `grep -v "lo:\|Inter\|face" /proc/net/dev`,
		"a kernel module":        `perl -e 'syscall(313, 0, "", 0) == 0 or exit 1'`, // finit_module
		"a user namespace":       "unshare -Ur true",
		"a cgroup namespace":     "unshare -C true",
		"the kernel's keyrings":  `perl -e 'syscall(248, "user\0", "meros\0", "x", 1, -4) > 0 or exit 1'`, // add_key, to the user's
		"a virtual socket":       `perl -e 'socket(S, 40, 1, 0) or exit 1'`,                               // AF_VSOCK
		"raw frames":             `perl -e 'socket(S, 17, 3, 0) or exit 1'`,                               // AF_PACKET
		"a device's mode":        "chmod 0604 /dev/full",
		"a device's owner":       "chown 1 /dev/full",
		"the host's secrets":     "ls /etc/ssl/private /etc/shadow",
		"a reboot":               `perl -e 'syscall(169, 0xfee1dead, 672274793, 0x89abcdef, 0) == 0 or exit 1'`,
		"ptrace of the first":    "head -c1 /proc/1/mem",
		"supplementary groups":   `test "$(id -G | wc -w)" -gt 1`,
		"an inherited open file": `ls -l /proc/self/fd; test "$(ls /proc/self/fd | grep -v ^10 | wc -l)" -gt 4`,
	} {
		fmt.Fprintf(&all, "if (%s) >/tmp/out 2>&1; then echo 'reached %s:'; cat /tmp/out; fi\n", script, strings.ReplaceAll(name, "'", ""))
	}
	all.WriteString("echo x > /dev/null && ulimit -n && echo tried\n")
	if out, err := run(t, t.Context(), shell(all.String()), nil); err != nil || out != "1024\ntried\n" {
		t.Errorf("%v\n%s", err, out)
	}
	if name, _ := os.Hostname(); name == "evil" {
		t.Error("the script changed the host name")
	}
}

// Links in place of a tree's directories cannot redirect a mount out of the tree.
func TestHostileRoot(t *testing.T) {
	lab.NeedRoot(t)
	root, outside := t.TempDir(), t.TempDir()
	for name, to := range map[string]string{
		"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "proc": "/x", "dev": "../../../../../y", "tmp": "/z/../z", "mnt": outside,
	} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"x", "y", "z"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := shell("echo x > /tmp/f; cat /z/f /x/self/comm; echo > /y/null && ! echo x > /mnt/f")
	s.Root = root
	s.Mounts = []runner.Mount{{Source: "/usr", Target: "/usr"}}
	if out, err := run(t, t.Context(), s, nil); err != nil || !strings.HasPrefix(out, "x\ncat\n") {
		t.Errorf("%q, %v", out, err)
	}
	s.Mounts = append(s.Mounts, runner.Mount{Target: "/mnt"})
	if out, err := run(t, t.Context(), s, nil); err == nil {
		t.Errorf("mounted outside of the root: %q", out)
	}
	if found, _ := os.ReadDir(outside); len(found) > 0 {
		t.Errorf("created %v outside of the root", found)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(outside)) || bytes.Contains(mounts, []byte(root)) {
		t.Errorf("a mount is left on the host, %v", err)
	}
}

// A sandbox with a network reaches the world and not the host's loopback. The
// test creates a namespace that acts as the world.
func TestUserNetwork(t *testing.T) {
	lab.NeedRoot(t)
	lab.Need(t, "pasta", "ip")
	if os.Getenv("MEROS_TEST_WORLD") == "" {
		if os.Getenv(inUserNamespace) != "" {
			t.Skip("only root can create the namespace of the world")
		}
		// The host has one neighbour, its gateway.
		script := `set -e
mount -t tmpfs run /run
ip link set lo up
ip netns add neighbour
ip link add outer type veth peer name inner netns neighbour
ip address add 198.51.100.1/24 dev outer
ip link set outer up
ip -n neighbour address add 198.51.100.2/24 dev inner
ip -n neighbour link set inner up
ip route add default via 198.51.100.2
exec "$0" -test.run '^TestUserNetwork$' -test.v`
		cmd := exec.Command("unshare", "--net", "--mount", "sh", "-c", script, "/proc/self/exe")
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Args[len(cmd.Args)-1] = exe
		cmd.Env = append(os.Environ(), "MEROS_TEST_WORLD=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello\n")
			c.Close()
		}
	}()
	server := exec.Command("ip", "netns", "exec", "neighbour", "perl", "-e", `use Socket; socket(S,PF_INET,SOCK_STREAM,0); bind(S,sockaddr_in(7,INADDR_ANY)) or die; listen(S,9); $|=1; print "."; while(accept(C,S)){print C "hello\n"; close C}`)
	up, err := server.StdoutPipe()
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { server.Process.Kill(); server.Wait() }()
	io.ReadFull(up, make([]byte, 1))
	for address, want := range map[string]bool{"198.51.100.2": true, "127.0.0.1": false, "198.51.100.1": false} {
		wait := 2
		if want {
			wait = 0 // no alarm, because the answer may be late
		}
		s := shell(fmt.Sprintf(`perl -e 'use Socket; socket(S,PF_INET,SOCK_STREAM,0); alarm %d; connect(S,sockaddr_in(7,inet_aton("%s"))) or exit 7; print scalar <S>'`, wait, address))
		s.Network = runner.UserNetwork
		if out, _ := run(t, t.Context(), s, nil); (out == "hello\n") != want {
			t.Errorf("%s answers %q, want an answer: %t", address, out, want)
		}
	}
}

func TestSpecString(t *testing.T) {
	s := runner.Spec{Argv: []string{"sh", "-c", "echo 'x' $y", ""}}
	if got := s.String(); got != `sh -c 'echo '\''x'\'' $y' ''` {
		t.Error(got)
	}
}
