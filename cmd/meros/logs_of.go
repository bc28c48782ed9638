// This file is the verb logs-of: it prints the log of a stage.

package main

import (
	"fmt"
	"os"
	"strings"

	"meros/graph/record"
	"meros/runner/hint"
)

type logsOfCmd struct {
	Build string `arg:"" help:"ID of a build in meros history, the beginning of one, or a constellation for its newest build (NAME~1: the one before)."`
	Stage string `arg:"" help:"Part of the name of the stage."`
}

// Run implements the verb.
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
		return hint.Add(fmt.Errorf("the log of %s is no longer in the cache: %w", s.Name, err), "`meros build --rebuild STAGE` writes it again")
	}
	defer f.Close()
	return e.ui.copy(f)
}

// findNode returns the node of that name, or the only one that has part in its name.
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
		return nil, usageError{hint.Add(fmt.Errorf("%s: no stage has %q in its name", b.ID, part), "`meros history %s -v` lists the stages", b.ID)}
	case len(found) > 1:
		names := make([]string, len(found))
		for i, s := range found {
			names[i] = s.Name
		}
		return nil, usageError{fmt.Errorf("%s: %q is in several names: %s", b.ID, part, strings.Join(names, "; "))}
	}
	return found[0], nil
}
