// This file defines the messages that a step sends on its standard output to the
// process that started it. They report progress, and in the end why the step failed.
// Foreign
// programs write to the same stream.

package step

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"meros/graph"
	"meros/runner"
	"meros/runner/hint"
)

// message is one message of a step: how far it is, or why it failed.
type message struct {
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"` // 0 if unknown

	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	Lines int    `json:"lines,omitempty"` // at the end of the log that hold the error as well
}

// mark begins the line of a message. It is an OSC sequence, which a terminal does
// not show, with the token of the job. A hook does not know the token, so no line
// that it prints counts as a message.
func mark(token string) string { return "\x1b]meros;" + token + ";" }

// send writes a message, unless nobody reads them.
func (s *step) send(w io.Writer, m message) {
	if s.Token == "" {
		return
	}
	b, err := json.Marshal(m) // escapes control characters: it is one line
	if err != nil {
		panic(err) // it holds nothing that does not marshal
	}
	fmt.Fprintf(w, "%s%s\n", mark(s.Token), b)
}

// report says how far the step is.
func (s *step) report(done, total int64) { s.send(s.log, message{Done: done, Total: total}) }

// fail writes an error to the log, whole, and sends it.
func (s *step) fail(w io.Writer, err error) {
	text := "error: " + hint.Lines(err)
	fmt.Fprintln(w, text)
	s.send(w, message{Error: abridge(err.Error()), Hint: cut(hint.Of(err)), Lines: strings.Count(text, "\n") + 1})
}

// maxText bounds the error and the hint of a message, bytes.
const maxText = 4 << 10

func cut(text string) string {
	if len(text) > maxText {
		return strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return text
}

// failLines is how many of the first and of the last lines of a long error a
// message has.
const failLines = 4

// abridge leaves out the middle of a long error, which may be the usage of a
// program.
func abridge(text string) string {
	lines := strings.Split(text, "\n")
	if n := len(lines) - 2*failLines; n > 1 {
		lines = slices.Concat(lines[:failLines], []string{fmt.Sprintf("(%d lines, in the log)", n)}, lines[len(lines)-failLines:])
	}
	return cut(strings.Join(lines, "\n"))
}

// Failure is why a step failed, as its last message says.
type Failure struct {
	text, hint string
	lines      int
}

func (f *Failure) Error() string { return f.text }

// Hint returns the next steps, one a line, see package hint.
func (f *Failure) Hint() string { return f.hint }

// Tail returns the last lines of a failed node's log without those that hold the
// failure itself.
func Tail(ne *graph.NodeError) []string {
	f := (*Failure)(nil)
	if !errors.As(ne, &f) {
		return ne.Tail
	}
	n := len(ne.Tail) - f.lines
	if n < 0 {
		return nil
	}
	first, _, _ := strings.Cut(f.text, "\n")
	if before, ok := strings.CutSuffix(ne.Tail[n], "error: "+first); ok && before != "" {
		return append(slices.Clone(ne.Tail[:n]), before) // a program did not end its last line
	}
	return ne.Tail[:n]
}

// Watch separates the output of a job's process into its log and its messages.
func Watch(j *graph.Job) runner.Stdio {
	j.Token = rand.Text()
	w := &messageFilter{job: j, mark: []byte(mark(j.Token))}
	return runner.Stdio{Stdout: w, Stderr: w}
}

// maxLogLine is the length at which a line of a step's output is cut, in bytes. A
// program that never ends a line must not fill the memory. Every message is
// shorter.
const maxLogLine = 64 << 10

// messageFilter takes the messages out of a step's output.
type messageFilter struct {
	job  *graph.Job
	mark []byte
	part []byte // of a line
}

// Write implements io.Writer. Both streams of a process share the filter, and
// os/exec then writes from one goroutine.
func (w *messageFilter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, ok := bytes.Cut(p, []byte{'\n'})
		w.part = append(w.part, line...)
		p = rest
		if !ok && len(w.part) < maxLogLine {
			break
		}
		if text, found := bytes.CutPrefix(w.part, w.mark); found {
			w.receive(text)
		} else if _, err := w.job.Log.Write(append(w.part, '\n')); err != nil {
			return 0, err
		}
		w.part = w.part[:0]
	}
	return n, nil
}

// receive passes a message on.
func (w *messageFilter) receive(text []byte) {
	var m message
	switch err := json.Unmarshal(text, &m); {
	case err != nil:
	case m.Error != "":
		w.job.Failure = &Failure{m.Error, m.Hint, m.Lines}
	default:
		w.job.Report(m.Done, m.Total)
	}
}
