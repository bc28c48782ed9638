// This file is the user interface. Every word that a user sees leaves through it,
// by these rules.
//
// Standard output carries the result of a verb and nothing else: a table, a path, a
// JSON value. A script can rely on it. say prints a line of it and sayJSON a value;
// the help of each --json flag documents the shape of its value.
//
// Standard error carries everything about the work: notes, progress, errors and
// hints.
//
// A note is one line in lower case without a full stop. It reports what meros did
// ("wrote shop/meros.lock"), or a fact that the user did not ask for and should know.
// transient shows progress that the next line replaces; only a terminal shows it.
//
// An error is printed once, at the end, as "error: place: cause". The next step is
// not part of it. Each hint of the error follows on a line of its own, "hint: ...",
// with commands in backquotes. For a failed stage, the end of its log comes first,
// each line behind "  |", and the name of the full log last.
//
// Colours repeat what a word says, and never carry a meaning alone. There are none
// without a terminal, nor if NO_COLOR is set.
//
// printable replaces control characters in every text that comes from elsewhere: the
// output of stages, consoles, names of files, errors of programs. Such a text could
// make the terminal do things.
//
// --progress=json writes one JSON object a line to standard error instead of all
// that. The objects are the events of the build, {"event": "note", "text"} and
// {"event": "error", "text", "hint"}. With --progress=tty the running stages are
// redrawn below the last line. With --progress=plain each event is a line.
//
// A verb that gives the terminal to another program (connect, run, console, view)
// calls close first, and prints nothing after that.

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
	"meros/runner/hint"
	"meros/stages/step"
)

// ui prints to the user. Several goroutines may use it.
type ui struct {
	mu      sync.Mutex
	out     io.Writer // results
	err     io.Writer // progress and errors
	mode    string    // tty, plain or json
	verbose bool
	color   bool
	size    func() (width, height int) // of the terminal, in cells
	start   time.Time

	running map[*graph.Node]*activity
	failed  []*graph.NodeError
	built   bool // a build began
	quiet   bool // leave out cached nodes
	live    live
	drawn   []string // the lines of the live region on the screen
	drawnAt time.Time
}

// activity is the progress of a running node.
type activity struct {
	since       time.Time
	done, total int64
	line        string
}

// newUI returns a user interface. mode is the value of --progress.
func newUI(out, errw io.Writer, mode string, verbose bool) *ui {
	u := &ui{out: out, err: errw, mode: mode, verbose: verbose, start: time.Now(), running: make(map[*graph.Node]*activity), size: func() (int, int) { return 80, 24 }}
	f, isFile := errw.(*os.File)
	tty := isFile && term.IsTerminal(int(f.Fd()))
	if mode == "auto" {
		u.mode = "plain"
		if tty && os.Getenv("TERM") != "dumb" {
			u.mode = "tty"
		}
	}
	if tty {
		u.size = func() (int, int) {
			if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
				return w, h
			}
			return 80, 24
		}
	}
	u.color = u.mode == "tty" && os.Getenv("NO_COLOR") == ""
	return u
}

// say prints a line of the result to standard output.
func (u *ui) say(format string, a ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.erase()
	fmt.Fprintf(u.out, format+"\n", a...)
}

// write prints text of the result as it is.
func (u *ui) write(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.erase()
	io.WriteString(u.out, text)
}

// copy prints foreign text to standard output: as it is, or without control characters
// on a terminal.
func (u *ui) copy(r io.Reader) error {
	if out, ok := u.out.(*os.File); !ok || !term.IsTerminal(int(out.Fd())) {
		_, err := io.Copy(u.out, r)
		return err
	}
	lines := bufio.NewReader(r)
	for {
		l, err := lines.ReadString('\n')
		if l != "" {
			u.say("%s", printable(strings.TrimRight(l, "\r\n")))
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// note prints a line about the work to standard error.
func (u *ui) note(format string, a ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.print(fmt.Sprintf(format, a...))
}

// transient shows a line that the next one replaces. Only a terminal shows it.
func (u *ui) transient(line string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mode != "tty" || time.Since(u.drawnAt) < redraw {
		return
	}
	u.erase()
	width, _ := u.size()
	line = fit(line, width)
	fmt.Fprintln(u.err, line)
	u.drawn, u.drawnAt = []string{line}, time.Now()
}

// print prints a line to standard error. The caller holds the mutex.
func (u *ui) print(line string) {
	if u.mode == "json" {
		json.NewEncoder(u.err).Encode(map[string]string{"event": "note", "text": line})
		return
	}
	u.erase()
	fmt.Fprintln(u.err, line)
	u.draw(true)
}

// failuresShown is how many failed nodes are printed at the end of a build.
const failuresShown = 4

// fail prints an error and its hints. For a failed node it also prints the end of
// the log and the name of its file. As JSON, each problem of a manifest is an object.
func (u *ui) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.erase()
	if mistakes := (*constellations.Errors)(nil); u.mode == "json" && errors.As(err, &mistakes) {
		for _, part := range parts(err) {
			u.failManifest(part)
		}
		return
	}
	ne := (*graph.NodeError)(nil)
	if !errors.As(err, &ne) {
		u.errorLine(err.Error(), hint.Of(err))
		return
	}
	u.failNode(ne)
	others := slices.DeleteFunc(u.failed, func(o *graph.NodeError) bool { return o == ne })
	for _, o := range others[:min(len(others), failuresShown-1)] {
		u.failNode(o)
	}
	if more := len(others) - (failuresShown - 1); more > 0 {
		u.errorLine(fmt.Sprintf("%d more failed", more), "")
	}
}

// parts returns the errors that [errors.Join] has joined, or err alone. It looks
// through wrappers that add neither text nor a hint.
func parts(err error) []error {
	if inner := errors.Unwrap(err); inner != nil && inner.Error() == err.Error() && hint.Of(inner) == hint.Of(err) {
		return parts(inner)
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || err.Error() != errors.Join(joined.Unwrap()...).Error() {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, parts(e)...)
	}
	return all
}

// failManifest prints each problem of a manifest, behind the text that wraps them,
// or an error without such problems.
func (u *ui) failManifest(err error) {
	mistakes := (*constellations.Errors)(nil)
	if !errors.As(err, &mistakes) {
		u.errorLine(err.Error(), hint.Of(err))
		return
	}
	place := strings.TrimSuffix(err.Error(), mistakes.Error())
	for _, p := range mistakes.Problems {
		u.errorLine(place+p.Text(), strings.Trim(p.Hint+"\n"+hint.Of(err), "\n"))
	}
}

// fullDisk is the hint for a stage that found a disk full.
const fullDisk = "if the disk of data/ is full, `meros cache gc` frees space"

// nodeHints returns the next steps after a node's failure, one a line.
func nodeHints(ne *graph.NodeError, tail []string) string {
	hints := hint.Of(ne)
	add := func(h string) { hints = strings.TrimPrefix(hints+"\n"+h, "\n") }
	full := func(line string) bool { return strings.Contains(strings.ToLower(line), "no space left on device") }
	if full(ne.Error()) || slices.ContainsFunc(tail, full) {
		add(fullDisk)
	}
	if c, m, ok := machineOf(ne.Node); ok && ne.Log != "" {
		add(fmt.Sprintf("`meros build -v --progress=plain %s %s` shows it happen", c, m))
	}
	return hints
}

// failNode prints the failure of a node.
func (u *ui) failNode(ne *graph.NodeError) {
	msg, tail := ne.Error(), step.Tail(ne)
	hints := nodeHints(ne, tail)
	if u.mode == "json" {
		json.NewEncoder(u.err).Encode(struct {
			Event string   `json:"event"`
			Text  string   `json:"text"`
			Hint  string   `json:"hint,omitempty"`
			Node  string   `json:"node"`
			Log   string   `json:"log,omitempty"`
			Tail  []string `json:"tail,omitempty"`
		}{"error", msg, hints, ne.Node.Name, ne.Log, tail})
		return
	}
	for _, l := range tail {
		fmt.Fprintln(u.err, "  |", printable(l))
	}
	u.errorLine(msg, hints)
	if ne.Log != "" {
		fmt.Fprintf(u.err, "full log: %s\n", ne.Log)
	}
}

// errorLine prints an error and, on lines of their own, its hints.
func (u *ui) errorLine(msg, hints string) {
	if u.mode == "json" {
		json.NewEncoder(u.err).Encode(struct {
			Event string `json:"event"`
			Text  string `json:"text"`
			Hint  string `json:"hint,omitempty"`
		}{"error", msg, hints})
		return
	}
	var lines []string
	for l := range strings.SplitSeq(msg, "\n") {
		lines = append(lines, printable(l))
	}
	fmt.Fprintf(u.err, "%s %s\n", u.paint("31;1", "error:"), strings.Join(lines, "\n"))
	for h := range strings.Lines(hints) {
		fmt.Fprintf(u.err, "%s %s\n", u.paint("36", "hint:"), printable(strings.TrimSuffix(h, "\n")))
	}
}

// machineOf returns the constellation and the machine that alone uses the node.
func machineOf(n *graph.Node) (constellation, machine string, ok bool) {
	id, _, _ := strings.Cut(n.Name, " ")
	return strings.Cut(id, "/")
}

// interrupted prints that the user ended the verb.
func (u *ui) interrupted() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.erase()
	msg := "interrupted"
	if u.built {
		msg += "; finished stages are in the cache, the next run continues from them"
	}
	u.errorLine(msg, "")
}

// close removes the live region, which is drawn only while the program runs.
func (u *ui) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.running = make(map[*graph.Node]*activity)
	u.erase()
}

// event shows an event of a build.
func (u *ui) event(e graph.Event) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.built = true
	if ne := (*graph.NodeError)(nil); e.Kind == graph.Failed && errors.As(e.Err, &ne) {
		u.failed = append(u.failed, ne)
	}
	if u.quiet && e.Kind == graph.Cached {
		return
	}
	if u.mode == "json" {
		u.jsonEvent(e)
		return
	}
	name := e.Node.Name
	switch e.Kind {
	case graph.Started:
		u.running[e.Node] = &activity{since: time.Now()}
		if u.mode == "plain" && !e.Node.Needs.Download || u.verbose {
			u.line("run", name, "36", joined(impure(e.Node), u.why(e.Reason)))
		}
	case graph.Progress:
		if a := u.running[e.Node]; a != nil {
			a.done, a.total = e.Done, e.Total
		}
	case graph.Output:
		if a := u.running[e.Node]; a != nil {
			a.line = e.Line
		}
		if u.verbose {
			u.print("  | " + printable(e.Line))
		}
	case graph.Waiting:
		u.line("wait", name, "33", fmt.Sprintf("process %d builds the same stage", e.PID))
	case graph.Cached:
		u.live.cached++
		delete(u.live.expected, e.Node)
		if u.verbose {
			u.line("cached", name, "32", e.Action.String())
		}
	case graph.Ran:
		u.live.ran++
		delete(u.running, e.Node)
		delete(u.live.expected, e.Node)
		u.line("done", name, "32", u.cost(e))
	case graph.Failed:
		delete(u.running, e.Node)
		delete(u.live.expected, e.Node)
		u.line("failed", name, "31;1", "")
	}
	u.draw(false)
}

func impure(n *graph.Node) string {
	switch {
	case n.Impure && n.Network == runner.NoNetwork:
		return "impure: its output differs each time"
	case n.Impure:
		return "impure: it may use a network"
	}
	return ""
}

func (u *ui) why(reason string) string {
	if !u.verbose || reason == "" {
		return ""
	}
	return strings.TrimPrefix(reason, "cache miss: ")
}

// cost returns how long a node took and how large its outputs are.
func (u *ui) cost(e graph.Event) string {
	var size int64
	for _, a := range e.Outputs {
		size += a.Size
	}
	s := fmt.Sprintf("%s  %s", seconds(e.Duration), bytesText(size))
	if e.Node.Needs.Download && e.Duration > 0 {
		s += fmt.Sprintf("  %s/s", bytesText(int64(float64(size)/e.Duration.Seconds())))
	}
	return s
}

func (u *ui) line(word, name, color, rest string) {
	u.print(strings.TrimRight(fmt.Sprintf("%s %-34s %s", u.paint(color, fmt.Sprintf("%-7s", word)), name, rest), " "))
}

func (u *ui) paint(color, s string) string {
	if !u.color {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

func (u *ui) jsonEvent(e graph.Event) {
	words := map[graph.Kind]string{graph.Started: "started", graph.Progress: "progress", graph.Output: "output", graph.Waiting: "waiting", graph.Cached: "cached", graph.Ran: "ran", graph.Failed: "failed"}
	m := map[string]any{"event": words[e.Kind], "node": e.Node.Name, "stage": e.Node.Stage, "t": time.Since(u.start).Seconds()}
	if !e.Action.IsZero() {
		m["key"] = e.Action.Hex()
	}
	for k, v := range map[string]string{"reason": e.Reason, "line": e.Line} {
		if v != "" {
			m[k] = v
		}
	}
	if e.Kind == graph.Progress {
		m["done"], m["total"] = e.Done, e.Total
	}
	if e.Duration > 0 {
		m["seconds"] = e.Duration.Seconds()
	}
	if e.Outputs != nil {
		m["outputs"] = e.Outputs
	}
	if e.Err != nil {
		m["error"] = e.Err.Error()
		if h := hint.Of(e.Err); h != "" {
			m["hint"] = h
		}
	}
	json.NewEncoder(u.err).Encode(m)
}

// sayJSON prints a value.
func (e *env) sayJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	e.ui.say("%s", b)
	return nil
}
