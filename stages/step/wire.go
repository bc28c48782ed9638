package step

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"meros/graph"
	"meros/runner"
	"meros/stages"
)

// ProgressMark begins a line by which a step tells how far it is, and which
// is no part of its log: an OSC sequence, which no program prints by chance.
const ProgressMark = "\x1b]meros;"

func (s *step) report(done, total int64) {
	if s.Hints[stages.HintShell] != "" {
		return // a user sees all that is written
	}
	fmt.Fprintf(s.log, "%s%d;%d\n", ProgressMark, done, total)
}

// Watch takes a stage's output apart into its log and its progress.
func Watch(j *graph.Job) runner.Stdio {
	w := &progressFilter{job: j}
	return runner.Stdio{Stdout: w, Stderr: w}
}

// maxLogLine is where a line of a stage's output is cut, bytes: who never ends
// one must not fill the memory.
const maxLogLine = 64 << 10

type progressFilter struct {
	job  *graph.Job
	part []byte
}

// Write implements io.Writer. Both streams of a process share it, and
// os/exec then writes from one goroutine.
func (w *progressFilter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, ok := bytes.Cut(p, []byte{'\n'})
		w.part = append(w.part, line...)
		p = rest
		if !ok && len(w.part) < maxLogLine {
			break
		}
		if mark, found := bytes.CutPrefix(w.part, []byte(ProgressMark)); found {
			var done, total int64
			if k, _ := fmt.Sscanf(string(mark), "%d;%d", &done, &total); k == 2 {
				w.job.Report(done, total)
			}
		} else if _, err := w.job.Log.Write(append(w.part, '\n')); err != nil {
			return 0, err
		}
		w.part = w.part[:0]
	}
	return n, nil
}

// FailMark begins the line by which a stage's process says why it failed.
const FailMark = "meros stage failed: "

// failLines is how many of the first and of the last lines of an error are
// behind the mark.
const failLines = 4

// stageFailure is what a stage's process says last. The first lines of a long
// error would not be among the last of its output, which may be a program's
// usage: the whole of it goes before.
func stageFailure(err error) string {
	text := err.Error()
	lines := strings.Split(text, "\n")
	if n := len(lines) - 2*failLines; n > 1 {
		lines = slices.Concat(lines[:failLines], []string{fmt.Sprintf("(%d lines, in the log)", n)}, lines[len(lines)-failLines:])
		return text + "\n" + FailMark + strings.Join(lines, "\n") + "\n"
	}
	return FailMark + text + "\n"
}

// StageError finds that line among the last ones of its output.
func StageError(tail []string) (string, bool) {
	for i := len(tail) - 1; i >= 0; i-- {
		if s, ok := strings.CutPrefix(tail[i], FailMark); ok {
			return strings.Join(append([]string{s}, tail[i+1:]...), "\n"), true
		}
	}
	return "", false
}
