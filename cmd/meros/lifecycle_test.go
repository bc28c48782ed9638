// This file tests logs, consoles and the numbers of `meros top`.

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"meros/runner/host"
	"meros/runner/vm"

	"meros/bench/lab"
)

// TestTail follows a log that grows and that a new start replaces.
func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := tail(t.Context(), file, false, func(string) { t.Error("a line of a missing file") }); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("one\r\ntwo"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := tail(t.Context(), file, false, func(l string) { got = append(got, l) }); err != nil || !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("the log has the lines %q, error %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout(t, time.Minute))
	defer cancel()
	lines := make(chan string, 10)
	go tail(ctx, file, true, func(l string) { lines <- l })
	expect := func(want string) {
		t.Helper()
		select {
		case l := <-lines:
			if l != want {
				t.Errorf("got the line %q, want %q", l, want)
			}
		case <-ctx.Done():
			t.Fatalf("timeout before the line %q", want)
		}
	}
	expect("one")
	// Append: os.WriteFile would truncate the file, which looks like a new log.
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(" and a half\n")
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	expect("two and a half")
	if err := os.WriteFile(file, []byte("restarted\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("restarted")
}

// TestTalk checks that a console ends with the escape key, with the machine, and
// with its input.
func TestTalk(t *testing.T) {
	for name, test := range map[string]struct {
		typed, sent string
		ends        bool // the machine ends
	}{
		"escape":  {"ls\n\x1drest", "ls\n", false},
		"input":   {"ls\n", "ls\n", false},
		"machine": {"", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			sent := make(chan string, 1)
			go func() {
				theirs.Write([]byte("login: "))
				if test.ends {
					theirs.Close()
				}
				b := make([]byte, 64)
				n, _ := theirs.Read(b)
				sent <- string(b[:n])
			}()
			in, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			w.WriteString(test.typed)
			if test.ends {
				defer w.Close()
			} else {
				w.Close()
			}
			shown, screen, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer shown.Close()
			defer screen.Close()
			if err := talk(ours, in, screen); err != nil {
				t.Errorf("talk: %v", err)
			}
			ours.Close()
			if got := <-sent; got != test.sent {
				t.Errorf("sent %q, want %q", got, test.sent)
			}
			b := make([]byte, 64)
			if n, err := shown.Read(b); err != nil || string(b[:n]) != "login: " {
				t.Errorf("the console shows %q, error %v", b[:n], err)
			}
		})
	}
}

// TestLoad checks how a machine's load results from two measurements.
func TestLoad(t *testing.T) {
	u, err := host.UsageOf(os.Getpid())
	if err != nil || u.Memory < 1<<20 {
		t.Fatalf("the usage of this process is %+v, error %v", u, err)
	}
	at := time.Unix(100, 0)
	before := usage{Usage: host.Usage{At: at, CPU: 1, Read: 1000}, sent: 50}
	now := usage{Usage: host.Usage{At: at.Add(2 * time.Second), CPU: 2.5, Read: 5000, Memory: 7}, sent: 50}
	if l := loadOf(vm.Status{Machine: "m"}, before, now); l.CPU != 75 || l.Read != 2000 || l.Sent != 0 || l.Memory != 7 {
		t.Errorf("the load is %+v", l)
	}
	// The counters went back, so the process is another one and the load is 0.
	if l := loadOf(vm.Status{}, now, before); l.CPU != 0 || l.Read != 0 {
		t.Errorf("the load is %+v", l)
	}
}
