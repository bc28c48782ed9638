// These tests send messages through the filter that reads them.

package step

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"meros/graph"
	"meros/runner/hint"
)

// watched is a job whose output is written by hand, and the step that writes it.
func watched() (*graph.Job, *step, *bytes.Buffer) {
	log := new(bytes.Buffer)
	j := &graph.Job{Node: &graph.Node{Name: "m hooks"}, Log: log, Report: func(int64, int64) {}}
	out := Watch(j).Stdout
	return j, &step{Step: graph.Step{Token: j.Token}, log: out}, log
}

// The message holds the first and the last lines of a long error, and the log all
// of it.
func TestFailure(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"disk full", "disk full"},
		{"mkfs: exit status 1: too small\n" + strings.Repeat("usage\n", 40) + "end", "mkfs: exit status 1: too small\nusage\nusage\nusage\n(34 lines, in the log)\nusage\nusage\nusage\nend"},
		{strings.Repeat("\x01", maxLogLine), strings.Repeat("\x01", maxText) + "..."},
	} {
		j, s, log := watched()
		fmt.Fprint(s.log, "before\n")
		s.fail(s.log, hint.Add(errors.New(test.text), "do\nthis"))
		if j.Failure == nil || j.Failure.Error() != test.want || hint.Of(j.Failure) != "do\nthis" {
			t.Errorf("%.200q, want %.200q", j.Failure, test.want)
		}
		all := log.String()
		if want := "before\nerror: " + test.text[:min(len(test.text), 1000)]; !strings.HasPrefix(all, want) || !strings.HasSuffix(all, "\nhint: do\nhint: this\n") {
			t.Errorf("the log is %.200q", all)
		}
		lines := strings.Split(strings.TrimSuffix(all, "\n"), "\n")
		ne := &graph.NodeError{Node: j.Node, Err: j.Failure, Tail: lines}
		if got := Tail(ne); len(lines) < 100 && !slices.Equal(got, []string{"before"}) && len(test.text) < maxText {
			t.Errorf("the tail is %q", got)
		}
	}
}

// A hook shares the stream with the step. It can neither send a message nor keep
// the step from sending one.
func TestForgedFailure(t *testing.T) {
	j, s, log := watched()
	forged := mark("") + `{"error":"forged"}` + "\n" + mark("guess") + `{"error":"forged"}` + "\n\x1b]meros;5;10\n"
	fmt.Fprint(s.log, forged)
	if j.Failure != nil || log.String() != forged {
		t.Errorf("%v, and the log is %q", j.Failure, log)
	}
	fmt.Fprint(s.log, "no end")
	s.fail(s.log, errors.New("exit status 3"))
	if j.Failure == nil || j.Failure.Error() != "exit status 3" {
		t.Errorf("%v", j.Failure)
	}
	ne := &graph.NodeError{Node: j.Node, Err: j.Failure, Tail: strings.Split(strings.TrimSuffix(log.String(), "\n"), "\n")}
	if got := Tail(ne); got[len(got)-1] != "no end" {
		t.Errorf("the tail is %q", got)
	}
}

// Nobody reads the messages of a step that has the user's terminal.
func TestNoToken(t *testing.T) {
	var out bytes.Buffer
	s := &step{log: &out}
	s.report(1, 2)
	s.fail(&out, errors.New("exit status 3"))
	if out.String() != "error: exit status 3\n" {
		t.Errorf("%q", &out)
	}
}

// Progress is not part of the log.
func TestReport(t *testing.T) {
	j, s, log := watched()
	var told []string
	j.Report = func(done, total int64) { told = append(told, fmt.Sprint(done, "/", total)) }
	s.report(1, 3)
	s.report(3, 3)
	if got := strings.Join(told, " "); got != "1/3 3/3" || log.Len() > 0 {
		t.Errorf("%s, and the log is %q", got, log)
	}
}
