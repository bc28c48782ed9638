package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"meros/graph/record"
)

type logsOfCmd struct {
	Build string `arg:"" help:"A build as meros history shows it, the beginning of one, or a constellation: its newest build (NAME~1: the one before)."`
	Stage string `arg:"" help:"A part of the stage's name."`
}

// Run implements the verb: it prints what a stage wrote.
func (c *logsOfCmd) Run(e *env) error {
	b, err := e.records().Find(c.Build)
	if err != nil {
		return err
	}
	s, err := findNode(b, c.Stage)
	if err != nil {
		return err
	}
	store, err := e.openStore(true)
	if err != nil {
		return err
	}
	file, err := s.LogFile(store)
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
func findNode(b *record.Build, part string) (*record.Node, error) {
	var found []*record.Node
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
