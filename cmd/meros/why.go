package main

import (
	"cmp"
	"fmt"
	"strings"

	"meros/graph/record"
)

type whyCmd struct {
	Constellation string `arg:"" help:"Name of the constellation, or CONSTELLATION/MACHINE."`
	Stage         string `arg:"" optional:"" help:"A part of the names of the stages to explain (default: those that run first)."`
	RootfsOnly    bool   `help:"As of build."`
	Boot          bool   `help:"As of build."`
	From          string `placeholder:"BUILD" help:"Compare this build of the history with another (see meros history; NAME~1 is the one before the newest)."`
	To            string `placeholder:"BUILD" help:"The other one (default: the newest of the constellation)."`
	JSON          bool   `name:"json" help:"Print JSON: [{\"name\", \"stage\", \"when\", \"reason\", \"differences\": [{\"name\", \"before\", \"after\"}], \"then\"}]; when is next, last, spared or between."`
}

// Run implements the verb.
func (c *whyCmd) Run(e *env) error {
	name, machine, one := strings.Cut(c.Constellation, "/")
	if c.From != "" || c.To != "" {
		return c.between(e, name)
	}
	r := &request{Constellation: name, RootfsOnly: c.RootfsOnly, Boot: c.Boot}
	if one {
		r.Machines = []string{machine}
	}
	f, err := r.preview(e)
	if err != nil {
		return err
	}
	all := f.next(c.Stage)
	if len(all) == 0 {
		all = append(f.lastTime(c.Stage), e.records().CutOff(name, c.Stage)...)
	}
	if c.JSON {
		return e.sayJSON(append([]record.Explanation{}, all...))
	}
	if len(all) == 0 && c.Stage != "" && !f.has(c.Stage) {
		return usageError{fmt.Errorf("%s: no stage has %q in its name (meros plan %s -v lists them)", name, c.Stage, name)}
	}
	if len(all) == 0 {
		e.ui.say("nothing would run, and nothing is known of an earlier build")
	}
	for _, x := range all {
		printExplanation(e, x)
	}
	return nil
}

// between explains what differs between two builds of the history.
func (c *whyCmd) between(e *env, name string) error {
	rs := e.records()
	to, err := rs.Find(cmp.Or(c.To, name))
	if err != nil {
		return err
	}
	from := rs.Before(to)
	if c.From != "" {
		if from, err = rs.Find(c.From); err != nil {
			return err
		}
	}
	if from == nil {
		return usageError{fmt.Errorf("%s is the first build that is remembered: there is none to compare it with", to.ID)}
	}
	store, err := e.openStore(true)
	if err != nil {
		return err
	}
	all := record.Between(store, from, to, c.Stage)
	if c.JSON {
		return e.sayJSON(append([]record.Explanation{}, all...))
	}
	if len(all) == 0 {
		e.ui.say("nothing differs between %s and %s", from.ID, to.ID)
	}
	for _, x := range all {
		printExplanation(e, x)
	}
	return nil
}

// maxDifferences is how many lines are told of a stage.
const maxDifferences = 20

func printExplanation(e *env, x record.Explanation) {
	verb := map[string]string{"next": "would run", "last": "changed the last time", "between": "differs", "spared": "was spared"}[x.When]
	e.ui.say("%s %s", x.Name, verb)
	if x.Reason != "" {
		e.ui.say("    %s", x.Reason)
	}
	for i, d := range x.Differences {
		if i == maxDifferences && !e.ui.verbose {
			e.ui.say("    and %d more (-v)", len(x.Differences)-i)
			break
		}
		e.ui.say("    %s", d)
	}
	if len(x.Then) > 0 {
		e.ui.say("  then, unless it gives the same bytes: %s", strings.Join(x.Then, ", "))
	}
}
