// This file is the verb why: it explains the next build, the last one, or the
// differences between two.

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"meros/cache"
	"meros/graph"
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
		return usageError{fmt.Errorf("%s is the first build that is remembered: there is no build to compare it with", to.ID)}
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
	verb := map[string]string{"next": "would run", "last": "changed the last time", "between": "differs", "spared": "did not run"}[x.When]
	e.ui.say("%s %s", x.Name, verb)
	if x.Reason != "" {
		e.ui.say("    %s", x.Reason)
	}
	for i, d := range x.Differences {
		if i == maxDifferences && !e.ui.verbose {
			e.ui.say("    and %d more; -v lists them", len(x.Differences)-i)
			break
		}
		e.ui.say("    %s", d)
	}
	if len(x.Then) > 0 {
		e.ui.say("  then, if its output changes: %s", strings.Join(x.Then, ", "))
	}
}

// has reports whether a stage has part in its name.
func (f *preview) has(part string) bool {
	return slices.ContainsFunc(f.all, func(s graph.Preview) bool { return strings.Contains(s.Node.Name, part) })
}

// next explains the stages that would run now: their key is known and has no entry in
// the cache.
func (f *preview) next(part string) []record.Explanation {
	var all []record.Explanation
	for _, s := range f.all {
		if s.Outcome == graph.WouldReuse || s.Node.Fixed != nil || !strings.Contains(s.Node.Name, part) {
			continue
		}
		x := record.Explanation{Name: s.Node.Name, Stage: s.Node.Stage, When: "next"}
		if s.Outcome == graph.MayRun {
			if part == "" {
				continue // the stages before it are explained
			}
			x.Reason = fmt.Sprintf("%s runs before it; this runs only if that output changes", s.After.Name)
		} else if x.Differences = f.differences(s); len(x.Differences) == 0 {
			x.Reason = strings.TrimPrefix(s.Reason, "cache miss: ")
		}
		for _, t := range f.all {
			if t.After == s.Node {
				x.Then = append(x.Then, t.Node.Name)
			}
		}
		all = append(all, x)
	}
	return all
}

// lastTime explains the newest build that changed one of these machines.
func (f *preview) lastTime(part string) []record.Explanation {
	var newest int64
	for _, s := range f.all {
		if strings.Contains(s.Node.Name, part) {
			was, _ := f.lastOf(s.Node)
			newest = max(newest, was.Since)
		}
	}
	var all []record.Explanation
	for _, s := range f.all {
		was, _ := f.lastOf(s.Node)
		if newest == 0 || was.Since != newest || !strings.Contains(s.Node.Name, part) {
			continue
		}
		x := record.Explanation{Name: s.Node.Name, Stage: s.Node.Stage, When: "last"}
		id, err := cache.ParseActionID(was.Action)
		if err == nil {
			var text []byte
			if text, err = f.store.KeyText(id); err == nil {
				x.Differences = f.differencesOf(s.Node, was.Before, text)
			}
		}
		if len(x.Differences) == 0 {
			x.Reason = "it was built for the first time on " + time.Unix(0, newest).Format(time.DateTime)
		}
		all = append(all, x)
	}
	return all
}
