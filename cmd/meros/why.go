// This file is the verb why: it explains the next build, the last one, or the
// differences between two.

package main

import (
	"cmp"
	"fmt"
	"strings"

	"meros/graph/record"
	"meros/runner/hint"
)

type whyCmd struct {
	Constellation string `arg:"" help:"Name of the constellation, or CONSTELLATION/MACHINE."`
	Stage         string `arg:"" optional:"" help:"Explain the stages with this in their names (default: those that run first)."`
	RootfsOnly    bool   `help:"As for build."`
	Boot          bool   `help:"As for build."`
	From          string `placeholder:"BUILD" help:"Compare this build with another: an ID of meros history, or NAME~1 for the build before the newest."`
	To            string `placeholder:"BUILD" help:"The other build (default: the newest of the constellation)."`
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
		return usageError{hint.Add(fmt.Errorf("%s: no stage has %q in its name", name, c.Stage), "`meros plan %s -v` lists the stages", name)}
	}
	if len(all) == 0 {
		e.ui.say("nothing would run, and no earlier build is remembered")
	}
	for _, x := range all {
		printExplanation(e, x)
	}
	return nil
}

// between explains the differences between two builds.
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
		return usageError{fmt.Errorf("%s is the first build that is remembered, there is no build to compare it with", to.ID)}
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

// maxDifferences is how many differences of a stage are printed.
const maxDifferences = 20

// printExplanation prints why a stage runs or ran.
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
		e.ui.say("  then, if its output changes: %s", strings.Join(x.Then, ", "))
	}
}
