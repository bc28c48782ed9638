// This file is the verb history: it lists builds, or the stages of one.

package main

import (
	"fmt"
	"strings"

	"meros/graph/record"
)

type historyCmd struct {
	What string `arg:"" optional:"" help:"A constellation (default: all), or a build, to list its stages."`
	JSON bool   `name:"json" help:"Print JSON: a list of builds, each {\"id\", \"name\", \"verb\", \"machines\", \"began\", \"seconds\", \"result\", \"error\", \"cpus\", \"nodes\", \"cached\", \"ran\", \"failed\", \"skipped\", \"spared\", \"meros\"}; of one build with \"stages\": [{\"name\", \"stage\", \"outcome\", \"key\", \"reason\", \"error\", \"start\", \"seconds\", \"inputs\", \"outputs\", \"log\", \"url\", \"target\", \"impure\", \"files\"}]."`
}

// Run implements the verb.
func (c *historyCmd) Run(e *env) error {
	rs := e.records()
	ids, err := rs.IDs(c.What)
	if err != nil {
		return err
	}
	if c.What != "" && len(ids) == 0 {
		return c.one(e, rs)
	}
	heads := []*record.Head{}
	for _, id := range ids {
		h, err := rs.Head(id)
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
		e.ui.say("%s", historyLine(h))
	}
	return nil
}

// historyLine describes a build in one line.
func historyLine(h *record.Head) string {
	text := fmt.Sprintf("%-32s %-11s %8s  %d ran, %d cached", h.ID, h.Result, secondsText(h.Seconds), h.Ran, h.Cached)
	if h.Failed > 0 {
		text += fmt.Sprintf(", %d failed", h.Failed)
	}
	if h.Verb != "build" {
		text += "  (" + h.Verb + ")"
	}
	return text
}

// one lists the stages of a build.
func (c *historyCmd) one(e *env, rs record.Store) error {
	b, err := rs.Find(c.What)
	if err != nil {
		return err
	}
	if c.JSON {
		return e.sayJSON(b)
	}
	e.ui.say("%s", historyLine(&b.Head))
	if b.Error != "" {
		e.ui.say("%s", printable(b.Error))
	}
	for h := range strings.Lines(b.Hint) {
		e.ui.say("hint: %s", printable(strings.TrimSuffix(h, "\n")))
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
