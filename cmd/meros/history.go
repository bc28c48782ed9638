package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/term"

	"meros/cache"
	"meros/graph"
)

type historyCmd struct {
	What string `arg:"" optional:"" help:"A constellation (default: all), or a build, whose stages are shown then."`
	JSON bool   `name:"json" help:"Print JSON: a list of builds, each {\"id\", \"name\", \"verb\", \"machines\", \"began\", \"seconds\", \"result\", \"error\", \"cpus\", \"nodes\", \"cached\", \"ran\", \"failed\", \"skipped\", \"spared\", \"meros\"}; of one build with \"stages\": [{\"name\", \"stage\", \"outcome\", \"key\", \"reason\", \"error\", \"start\", \"seconds\", \"inputs\", \"outputs\", \"log\", \"url\", \"target\", \"impure\", \"files\"}]."`
}

// Run implements the verb.
func (c *historyCmd) Run(e *env) error {
	rs := recordsOf(e.root)
	ids, err := rs.ids(c.What)
	if err != nil {
		return err
	}
	if c.What != "" && len(ids) == 0 {
		return c.one(e, rs)
	}
	heads := []*recordHead{}
	for _, id := range ids {
		h, err := rs.head(id)
		if err != nil {
			e.ui.note("%v", err)
			continue
		}
		heads = append(heads, h)
	}
	if c.JSON {
		return e.sayJSON(heads)
	}
	if len(heads) == 0 {
		e.ui.say("no build is remembered yet")
	}
	for _, h := range heads {
		e.ui.say("%s", h.line())
	}
	return nil
}

// line tells of a build in one.
func (h *recordHead) line() string {
	text := fmt.Sprintf("%-32s %-11s %8s  %d ran, %d cached", h.ID, h.Result, secondsText(h.Seconds), h.Ran, h.Cached)
	if h.Failed > 0 {
		text += fmt.Sprintf(", %d failed", h.Failed)
	}
	if h.Verb != "build" {
		text += "  (" + h.Verb + ")"
	}
	return text
}

// one shows a build.
func (c *historyCmd) one(e *env, rs records) error {
	b, err := rs.find(c.What)
	if err != nil {
		return err
	}
	if c.JSON {
		return e.sayJSON(b)
	}
	e.ui.say("%s", b.line())
	if b.Error != "" {
		e.ui.say("%s", printable(b.Error))
	}
	for _, s := range b.Stages {
		switch {
		case s.Outcome == "cached" && !e.ui.verbose:
		case s.Outcome == "ran" || s.Outcome == "failed" || s.Outcome == "interrupted":
			e.ui.say("%-7s %8s  %-40s %s", s.Outcome, secondsText(s.Seconds), s.Name, s.Reason)
		default:
			e.ui.say("%-7s %8s  %s", s.Outcome, "", s.Name)
		}
	}
	return nil
}

type logsOfCmd struct {
	Build string `arg:"" help:"A build as meros history shows it, the beginning of one, or a constellation: its newest build (NAME~1: the one before)."`
	Stage string `arg:"" help:"A part of the stage's name."`
}

// Run implements the verb: it prints what a stage wrote.
func (c *logsOfCmd) Run(e *env) error {
	b, err := recordsOf(e.root).find(c.Build)
	if err != nil {
		return err
	}
	s, err := b.stage(c.Stage)
	if err != nil {
		return err
	}
	store, err := e.openStore(true)
	if err != nil {
		return err
	}
	file, err := s.logFile(store)
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("the log of %s was removed from the cache meanwhile (meros build --rebuild STAGE makes it again): %w", s.Name, err)
	}
	defer f.Close()
	if out, ok := e.ui.out.(*os.File); !ok || !term.IsTerminal(int(out.Fd())) {
		_, err = io.Copy(e.ui.out, f)
		return err
	}
	lines := bufio.NewReader(f)
	for err == nil { // what is foreign must not make the terminal do things
		var l string
		if l, err = lines.ReadString('\n'); l != "" {
			e.ui.say("%s", printable(strings.TrimRight(l, "\r\n")))
		}
	}
	if err == io.EOF {
		err = nil
	}
	return err
}

// stage is the one with that name, or the only one that has it in its own.
func (b *buildRecord) stage(part string) (*recordStage, error) {
	var found []*recordStage
	for i := range b.Stages {
		s := &b.Stages[i]
		if s.Name == part {
			return s, nil
		}
		if strings.Contains(s.Name, part) && s.Stage != "fetch" {
			found = append(found, s)
		}
	}
	switch {
	case len(found) == 0:
		return nil, usageError{fmt.Errorf("%s: no stage has %q in its name (meros history %s -v)", b.ID, part, b.ID)}
	case len(found) > 1:
		names := make([]string, len(found))
		for i, s := range found {
			names[i] = s.Name
		}
		return nil, usageError{fmt.Errorf("%s: %q may be: %s", b.ID, part, strings.Join(names, "; "))}
	}
	return found[0], nil
}

// logFile is where what the stage wrote is.
func (s *recordStage) logFile(store *cache.Store) (string, error) {
	d := digest.NewDigestFromEncoded(digest.SHA256, s.Log)
	if s.Log == "" {
		id, err := cache.ParseActionID(s.Key)
		if err != nil {
			return "", fmt.Errorf("%s did not run, so it wrote nothing", s.Name)
		}
		entry, err := store.Lookup(id)
		if err != nil {
			return "", fmt.Errorf("what %s wrote is not known any more: %w", s.Name, err)
		}
		if entry.Log == nil {
			return "", fmt.Errorf("%s wrote nothing", s.Name)
		}
		d = entry.Log.Digest
	}
	if d.Validate() != nil {
		return "", errors.New("its record is damaged")
	}
	return store.Path(d), nil
}

// differencesBetween explains what differs between two builds: stages of the same name
// with other keys, each with the lines of its key text.
func differencesBetween(store *cache.Store, from, to *buildRecord, part string) []explanation {
	before := make(map[string]recordStage)
	for _, s := range from.Stages {
		before[s.Name] = s
	}
	after := make(map[string]bool)
	var all []explanation
	for _, s := range to.Stages {
		after[s.Name] = true
		was, ok := before[s.Name]
		if s.Stage == "fetch" || !strings.Contains(s.Name, part) || ok && (was.Key == s.Key || s.Key == "" || was.Key == "") {
			continue
		}
		x := explanation{Name: s.Name, Stage: s.Stage, When: "between"}
		if !ok {
			x.Reason = "it is new"
		} else if x.Differences = recordedDifferences(store, from, to, was, s); len(x.Differences) == 0 {
			x.Reason = fmt.Sprintf("its key went from %.12s to %.12s; the key texts are gone", was.Key, s.Key)
		}
		all = append(all, x)
	}
	for _, s := range from.Stages {
		if !after[s.Name] && s.Stage != "fetch" && strings.Contains(s.Name, part) {
			all = append(all, explanation{Name: s.Name, Stage: s.Stage, When: "between", Reason: "it is gone"})
		}
	}
	return all
}

// recordedDifferences are those of a stage's key texts in two builds.
func recordedDifferences(store *cache.Store, from, to *buildRecord, before, after recordStage) []graph.Difference {
	was, err := before.keyText(store)
	if err != nil {
		return nil
	}
	now, err := after.keyText(store)
	if err != nil {
		return nil
	}
	called := make(map[string]graph.Label)
	from.inputsCalled(before, called)
	to.inputsCalled(after, called)
	return graph.Differences(was, now, called)
}

func (s *recordStage) keyText(store *cache.Store) ([]byte, error) {
	if s.KeyText != "" {
		return []byte(s.KeyText), nil
	}
	id, err := cache.ParseActionID(s.Key)
	if err != nil {
		return nil, err
	}
	return store.KeyText(id)
}
