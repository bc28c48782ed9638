// This file derives the progress of dpkg and apk from their output.

package step

import (
	"bytes"
	"fmt"
	"io"
)

// lineWatch passes whole lines on, and reports the progress that they show.
type lineWatch struct {
	out    io.Writer
	report func(done, total int64)
	seen   func(line []byte) (done, total int64, ok bool)
	part   []byte
}

// Write implements io.Writer.
func (w *lineWatch) Write(p []byte) (int, error) {
	w.part = append(w.part, p...)
	for {
		i := bytes.IndexByte(w.part, '\n')
		line := w.part[:i+1]
		if i < 0 {
			if len(w.part) < maxLogLine {
				return len(p), nil
			}
			line = w.part
		}
		if _, err := w.out.Write(line); err != nil {
			return 0, err
		}
		if done, total, ok := w.seen(line); ok && i >= 0 {
			w.report(done, total)
		}
		w.part = w.part[len(line):]
	}
}

// flush passes on the rest, which no line's end follows.
func (w *lineWatch) flush() {
	w.out.Write(w.part)
	w.part = nil
}

// watchPackages reports how far dpkg or apk is with so many packages, until the step
// ends.
func (s *step) watchPackages(steps int) *lineWatch {
	var done int64
	inner := &step{Step: s.Step, log: s.log} // its messages do not pass through the watch
	w := &lineWatch{out: s.log, report: inner.report, seen: func(line []byte) (int64, int64, bool) {
		if bytes.HasPrefix(line, []byte("Unpacking ")) || bytes.HasPrefix(line, []byte("Setting up ")) {
			done++
			return min(done, int64(steps)), int64(steps), true
		}
		var n, of int64
		if k, _ := fmt.Sscanf(string(line), "(%d/%d) ", &n, &of); k == 2 {
			return n, of, true
		}
		return 0, 0, false
	}}
	s.log = w
	return w
}
