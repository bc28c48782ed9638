// Package runner runs one process in a sandbox and says how it ended. It
// knows neither what the process is for nor where its results are kept.
//
// A [Spec] is the whole description of such a run, plain data that can be
// printed, stored and sent. The sandbox itself is made by the program that
// runner starts anew with [SandboxArg] as its only argument: main gives that
// call to runner/sandbox, which reads the Spec as JSON from descriptor 3 and
// reports a [Status] on descriptor 4.
package runner

import (
	"fmt"
	"strings"
	"time"
)

// SandboxArg is the argument with which a program that uses this package is
// started to become the first process of a sandbox.
const SandboxArg = "sandbox-init"

// Network is what a process can reach.
type Network string

const (
	NoNetwork   Network = ""     // a namespace of its own with only a loopback device
	HostNetwork Network = "host" // what the host reaches, its loopback included
	UserNetwork Network = "user" // the world through pasta(1), never the host's loopback
)

// Mount is something of the host shown inside. Targets are absolute paths;
// they are resolved within the root, so that a symbolic link in a hostile
// tree cannot lead out of it.
type Mount struct {
	Source   string `json:"source,omitempty"` // absolute host path; empty for a tmpfs
	Target   string `json:"target"`
	Writable bool   `json:"writable,omitempty"`
	Device   bool   `json:"device,omitempty"` // device nodes in it work
	Size     int64  `json:"size,omitempty"`   // of a tmpfs, bytes; 0 is the kernel's default
}

// Spec describes a process and the only things it can see.
type Spec struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"` // all of it: nothing is inherited
	Dir  string   `json:"dir,omitempty"`

	// Root is the directory that is / inside. If it is empty, / holds the
	// host's programs and libraries, read-only, and nothing else of the host.
	Root     string  `json:"root,omitempty"`
	Mounts   []Mount `json:"mounts,omitempty"` // in this order, after /proc, /dev and /tmp
	Network  Network `json:"network,omitempty"`
	Hostname string  `json:"hostname,omitempty"`

	// Foreign is the architecture of the programs in Root, as QEMU names it,
	// if it is not the host's: they are run by qemu-user.
	Foreign string `json:"foreign,omitempty"`

	// Trusted leaves the process the capabilities it needs to make mounts
	// and sandboxes of its own. Foreign code must never be Trusted.
	Trusted bool `json:"trusted,omitempty"`

	// Groups leaves the process the supplementary groups of the user, by which
	// /dev/kvm may be opened. Foreign code must never have them.
	Groups bool `json:"groups,omitempty"`

	// Terminal makes what Stdin is the process's controlling terminal, so that
	// control-C reaches it. It must be one that nothing else is read from.
	Terminal bool `json:"terminal,omitempty"`

	// Timeout ends the process and all its children; 0 is none.
	Timeout time.Duration `json:"timeout_ns,omitempty"`
}

// String is the command as one could paste it into a shell.
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

// Status is how a sandbox ended.
type Status struct {
	Exit   int    `json:"exit"`            // exit status of the process
	Signal int    `json:"signal"`          // the signal that killed it, or 0
	Error  string `json:"error,omitempty"` // why the process was never started
}

// ExitError is the failure of a process that did run.
type ExitError struct {
	Status
	TimedOut time.Duration // the limit it exceeded, or 0
}

func (e *ExitError) Error() string {
	switch {
	case e.TimedOut > 0:
		return fmt.Sprintf("timed out after %v", e.TimedOut)
	case e.Signal == 9:
		return "killed by signal 9 (if nobody did that, the host ran out of memory)"
	case e.Signal != 0:
		return fmt.Sprintf("killed by signal %d", e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Exit)
}
