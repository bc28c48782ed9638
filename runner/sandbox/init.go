// Package sandbox is the inner side of a sandbox: the first process of a new set
// of namespaces. It builds the file system that its [Config] describes, drops the
// rights that foreign code must not have, starts the process and reaps. It does
// not know why the process runs.
//
// # How foreign code is confined
//
// Foreign code has its own mount namespace, and the old root is unmounted there
// before the code starts. It has its own process, IPC, host name and (unless the
// Config asks for the host's) network namespaces. No capability reaches beyond
// them ([allowed]), the only device nodes are harmless ones, and /proc/sys is
// read-only. When the started process ends, this one ends, and with it the process
// namespace: the kernel kills all remaining processes.
package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// Config is the JSON that the starting program writes to descriptor 3. Its members
// are those of runner.Spec, which documents them.
type Config struct {
	Argv     []string      `json:"argv"`
	Env      []string      `json:"env"`
	Dir      string        `json:"dir"`
	Root     string        `json:"root"`
	Mounts   []Mount       `json:"mounts"`
	Network  string        `json:"network"`
	Hostname string        `json:"hostname"`
	Trusted  bool          `json:"trusted"`
	Groups   bool          `json:"groups"`
	Terminal bool          `json:"terminal"`
	Foreign  string        `json:"foreign"`
	Emulator string        `json:"emulator"`   // file of the host that runs programs of Foreign
	Timeout  time.Duration `json:"timeout_ns"` // enforced by the starting program
}

// Mount is one mount of a [Config].
type Mount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	Writable bool   `json:"writable"`
	Device   bool   `json:"device"`
	Size     int64  `json:"size"`
}

// status is the JSON that this process writes to descriptor 4.
type status struct {
	Exit   int    `json:"exit"`
	Signal int    `json:"signal"`
	Error  string `json:"error,omitempty"`
	Hint   string `json:"hint,omitempty"`
}

// Main is the program of a sandbox's first process. It returns when the started
// process has ended. The caller must then exit, which ends the namespaces.
func Main() {
	if err := CloseInherited(); err != nil {
		fmt.Fprintln(os.Stderr, "meros:", err)
		if h := hint.Of(err); h != "" {
			fmt.Fprintln(os.Stderr, "hint:", h)
		}
		return
	}
	report := os.NewFile(4, "status")
	st, err := run()
	if err != nil {
		st = status{Exit: 125, Error: err.Error(), Hint: hint.Of(err)}
	}
	json.NewEncoder(report).Encode(st)
	report.Close()
}

// CloseInherited prevents the processes that this one starts from inheriting
// descriptors beyond the standard streams.
func CloseInherited() error {
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return hint.Add(fmt.Errorf("close inherited descriptors: %w", err), "use Linux 5.12 or newer")
	}
	return nil
}

func run() (status, error) {
	var c Config
	in := os.NewFile(3, "config")
	err := json.NewDecoder(in).Decode(&c)
	in.Close()
	if err != nil {
		return status{}, fmt.Errorf("read the configuration: %w", err)
	}
	if len(c.Argv) == 0 {
		return status{}, errors.New("no command")
	}
	// Capabilities belong to a thread, and a child inherits those of the thread
	// that forked it.
	runtime.LockOSThread()
	if !c.Trusted {
		// When memory runs out, the kernel kills foreign code first, proc(5).
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
			return status{}, fmt.Errorf("set the out-of-memory score: %w", err)
		}
	}
	if c.Foreign != "" {
		if err := emulate(c.Foreign, c.Emulator); err != nil {
			return status{}, fmt.Errorf("run programs of %s: %w", c.Foreign, err)
		}
	}
	if err := c.makeRoot(); err != nil {
		return status{}, err
	}
	if c.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return status{}, fmt.Errorf("set the host name: %w", err)
		}
	}
	if c.Network != "host" {
		if err := loopbackUp(); err != nil {
			return status{}, fmt.Errorf("bring up the loopback device: %w", err)
		}
	}
	if !c.Trusted {
		// The user's groups give access to /dev/kvm, which foreign code must not
		// have.
		if !c.Groups {
			if err := unix.Setgroups(nil); err != nil {
				return status{}, fmt.Errorf("drop the supplementary groups: %w", err)
			}
		}
		if err := restrictCalls(); err != nil {
			return status{}, err
		}
		if err := dropCapabilities(); err != nil {
			return status{}, err
		}
	} else if err := dropHost(); err != nil {
		return status{}, err
	}
	if err := setLimits(); err != nil {
		return status{}, err
	}
	return c.start()
}

// limits holds the kernel's own defaults, getrlimit(2). The limits of a process
// must not depend on the shell that started meros.
var limits = map[int]uint64{
	unix.RLIMIT_NOFILE: 1024, unix.RLIMIT_STACK: 8 << 20, unix.RLIMIT_CORE: 0,
	unix.RLIMIT_FSIZE: unix.RLIM_INFINITY, unix.RLIMIT_CPU: unix.RLIM_INFINITY, unix.RLIMIT_DATA: unix.RLIM_INFINITY, unix.RLIMIT_AS: unix.RLIM_INFINITY,
}

// setLimits sets the soft limits, at most to the hard ones.
func setLimits() error {
	for which, soft := range limits {
		var l unix.Rlimit
		if err := unix.Getrlimit(which, &l); err != nil {
			return fmt.Errorf("read limit %d: %w", which, err)
		}
		l.Cur = min(soft, l.Max)
		// This is the raw call, because Go's own restores an older value for
		// children.
		if err := unix.Prlimit(0, which, &l, nil); err != nil {
			return fmt.Errorf("set limit %d: %w", which, err)
		}
	}
	return nil
}

// start runs the command, and reaps all children until the command has ended.
func (c *Config) start() (status, error) {
	path, err := lookPath(c.Argv[0], c.Env)
	if err != nil {
		return status{}, err
	}
	cmd := &exec.Cmd{Path: path, Args: c.Argv, Env: c.Env, Dir: c.Dir, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: c.Terminal} // the terminal is descriptor 0
	if err := cmd.Start(); err != nil {
		return status{}, fmt.Errorf("start %s: %w", c.Argv[0], err)
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return status{}, fmt.Errorf("wait for %s: %w", c.Argv[0], err)
		case pid == cmd.Process.Pid && ws.Exited():
			return status{Exit: ws.ExitStatus()}, nil
		case pid == cmd.Process.Pid && ws.Signaled():
			return status{Exit: 128 + int(ws.Signal()), Signal: int(ws.Signal())}, nil
		}
	}
}

// lookPath finds name in the PATH of env, not of this process.
func lookPath(name string, env []string) (string, error) {
	for _, c := range name {
		if c == '/' {
			return name, nil
		}
	}
	for _, dir := range pathOf(env) {
		file := dir + "/" + name
		if unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: no such program in the sandbox", name)
}

func pathOf(env []string) []string {
	dirs := []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	for _, e := range env {
		if len(e) > 5 && e[:5] == "PATH=" {
			dirs = nil
			start := 5
			for i := 5; i <= len(e); i++ {
				if i == len(e) || e[i] == ':' {
					dirs = append(dirs, e[start:i])
					start = i + 1
				}
			}
		}
	}
	return dirs
}
