// This file names a kernel's targets for make, and finds the cause of a failure in
// its output.

package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"meros/runner/arch"
	"meros/runner/hint"
)

// Target holds the names that the kernel's makefiles use for an architecture.
type Target arch.Kernel

// TargetFor returns the target for the architecture that QEMU calls name.
func TargetFor(name string) (Target, error) {
	a, err := arch.Find(name)
	if err != nil {
		return Target{}, err
	}
	if a.Kernel.Arch == "" {
		return Target{}, fmt.Errorf("cannot compile a kernel for %s", name)
	}
	return Target(a.Kernel), nil
}

// Variables returns the make variables that choose compiler and architecture.
// wrapper goes before the compiler ("ccache"), or is "".
func (t Target) Variables(toolchain, wrapper string) []string {
	if wrapper != "" {
		wrapper += " "
	}
	vars := []string{"ARCH=" + t.Arch}
	if toolchain == "clang" {
		return append(vars, "LLVM=1", "CC="+wrapper+"clang", "HOSTCC="+wrapper+"clang")
	}
	if t.Cross != "" {
		vars = append(vars, "CROSS_COMPILE="+t.Cross)
	}
	return append(vars, "CC="+wrapper+t.Cross+"gcc", "HOSTCC="+wrapper+"gcc")
}

// Watch reads the output of make. It counts objects and warnings, and remembers the
// first error.
type Watch struct {
	// Report is called with the number of objects so far.
	Report func(objects int)

	objects  int
	warnings int
	first    string // the first error of a compiler or of make
	next     string // the next step after cause, or ""
	cause    string // why the compiler ended without an error of its own
	part     []byte
}

// step matches a line of make for one object: "  CC      init/main.o".
var step = regexp.MustCompile(`^  (CC|AS|LD|AR|HOSTCC|HOSTLD|LDS|GEN|CC \[M\]|LD \[M\]|OBJCOPY|UPD|EXPORTS|VDSO|VDSO2C|MKCAP)\s+\S`)

// diagnosis matches an error or warning of gcc or clang: FILE:LINE:COLUMN: error: TEXT.
var (
	diagnosis = regexp.MustCompile(`^(\S[^:]*):(\d+)(?::(\d+))?: (fatal error|error|warning): (.*)$`)
	linker    = regexp.MustCompile(`^(\S*ld(?:\.bfd|\.lld)?): (.*(?:undefined reference|undefined symbol|error:).*)$`)
	makeError = regexp.MustCompile(`^make(?:\[\d+\])?: \*\*\* (.*)$`)
)

// Write implements io.Writer.
func (w *Watch) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		line, rest, ok := bytes.Cut(b, []byte{'\n'})
		w.part = append(w.part, line...)
		b = rest
		if ok {
			w.line(string(w.part))
			w.part = w.part[:0]
		}
	}
	return n, nil
}

func (w *Watch) line(l string) {
	if step.MatchString(l) {
		if w.objects++; w.Report != nil {
			w.Report(w.objects)
		}
		return
	}
	const fewer = "a smaller `--jobs` needs less memory"
	for words, reason := range map[string][2]string{
		"Killed signal terminated program": {"the compiler was killed: the host ran out of memory", fewer},
		"out of memory allocating":         {"the compiler ran out of memory", fewer},
		"No space left on device":          {"the disk is full"},
	} {
		if w.cause == "" && strings.Contains(l, words) {
			w.cause, w.next = reason[0], reason[1]
		}
	}
	if m := diagnosis.FindStringSubmatch(l); m != nil {
		if m[4] == "warning" {
			w.warnings++
		} else if w.first == "" {
			w.first = strings.TrimPrefix(m[1], "/src/") + ":" + m[2] + ": " + m[5]
		}
		return
	}
	for _, p := range []*regexp.Regexp{linker, makeError} {
		if m := p.FindStringSubmatch(l); m != nil && w.first == "" {
			w.first = strings.TrimSpace(m[len(m)-1])
		}
	}
}

// Objects returns the number of objects so far.
func (w *Watch) Objects() int { return w.objects }

// Summary returns a line about a build that succeeded.
func (w *Watch) Summary() string {
	return fmt.Sprintf("%d objects, %d warnings", w.objects, w.warnings)
}

// Failure returns the first error with its hint, or nil.
func (w *Watch) Failure() error {
	text := w.cause
	switch {
	case w.cause == "" && w.first == "":
		return nil
	case w.cause == "":
		text = w.first
	case w.first != "":
		text += ": " + w.first
	}
	err := errors.New(text)
	if w.next != "" {
		err = hint.Add(err, "%s", w.next)
	}
	return err
}
