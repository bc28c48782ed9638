// Package runner runs one process in a sandbox and reports how it ended. It
// knows neither the purpose of the process nor the place of its results.
//
// A [Spec] is the whole description of such a run: plain data that can be
// printed, stored and sent. To create the sandbox, runner executes its own
// program again, with [SandboxArg] as the only argument. That program's main
// calls runner/sandbox, which reads the Spec as JSON from descriptor 3 and
// reports a [Status] on descriptor 4.
package runner

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SandboxArg is the argument that makes a program become the first process of a
// sandbox.
const SandboxArg = "sandbox-init"

// Network selects the network that a process can reach.
type Network string

const (
	NoNetwork   Network = ""     // an own namespace with only a loopback device
	HostNetwork Network = "host" // the host's network, its loopback included
	UserNetwork Network = "user" // the world through pasta(1), never the host's loopback
)

// Mount shows a file or directory of the host in the sandbox. Targets are
// absolute paths. The sandbox resolves them within its root, so that a symbolic
// link in a hostile tree cannot lead out of it.
type Mount struct {
	Source   string `json:"source,omitempty"` // absolute host path; empty for a tmpfs
	Target   string `json:"target"`
	Writable bool   `json:"writable,omitempty"`
	Device   bool   `json:"device,omitempty"` // its device nodes work
	Size     int64  `json:"size,omitempty"`   // of a tmpfs, bytes; 0 is the kernel's default
}

// Spec describes a process and everything that it can see.
type Spec struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"` // complete: nothing is inherited
	Dir  string   `json:"dir,omitempty"`

	// Root is the directory that becomes / in the sandbox. If it is empty, /
	// holds the host's programs and libraries, read-only, and nothing else of
	// the host.
	Root     string  `json:"root,omitempty"`
	Mounts   []Mount `json:"mounts,omitempty"` // in this order, after /proc, /dev and /tmp
	Network  Network `json:"network,omitempty"`
	Hostname string  `json:"hostname,omitempty"`

	// Foreign is the architecture of the programs in Root, by QEMU's name, if
	// it differs from the host's. qemu-user then runs them.
	Foreign string `json:"foreign,omitempty"`

	// Trusted preserves the capabilities that the process needs to create
	// mounts and sandboxes. Foreign code must never be Trusted.
	Trusted bool `json:"trusted,omitempty"`

	// Groups preserves the user's supplementary groups, which give access to
	// /dev/kvm. Foreign code must never have them.
	Groups bool `json:"groups,omitempty"`

	// Terminal makes Stdin the process's controlling terminal, so that control-C
	// reaches it. Nothing else may read from that terminal.
	Terminal bool `json:"terminal,omitempty"`

	// Timeout ends the process and all its children; 0 means no limit.
	Timeout time.Duration `json:"timeout_ns,omitempty"`
}

// String returns the command, quoted so that it can be pasted into a shell.
func (s Spec) String() string {
	words := make([]string, len(s.Argv))
	for i, a := range s.Argv {
		words[i] = a
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$`&|;<>()*?[]#~!{}") {
			words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

// Status reports how a sandbox ended.
type Status struct {
	Exit   int    `json:"exit"`            // exit status of the process
	Signal int    `json:"signal"`          // the signal that killed it, or 0
	Error  string `json:"error,omitempty"` // why the process was never started
	Hint   string `json:"hint,omitempty"`  // the next step after Error
}

// ExitError is the failure of a process that was started.
type ExitError struct {
	Status
	TimedOut time.Duration // the limit it exceeded, or 0
}

func (e *ExitError) Error() string {
	switch {
	case e.TimedOut > 0:
		return fmt.Sprintf("timed out after %v", e.TimedOut)
	case e.Signal != 0:
		name := unix.SignalName(unix.Signal(e.Signal))
		return "killed by " + cmp.Or(name, fmt.Sprintf("signal %d", e.Signal))
	}
	return fmt.Sprintf("exit status %d", e.Exit)
}

// Hint returns the next step after a SIGKILL, which the kernel sends when memory
// runs out.
func (e *ExitError) Hint() string {
	if e.TimedOut == 0 && e.Signal == int(unix.SIGKILL) {
		return "the host may be out of memory, see dmesg"
	}
	return ""
}
