package main

import (
	"fmt"
	"maps"
	"strings"

	"meros/cache"
	"meros/graph"
)

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

// inputsCalled adds what the inputs of a stage of the build are called.
func (b *buildRecord) inputsCalled(s recordStage, called map[string]graph.Label) {
	for _, i := range s.Inputs {
		if i < 0 || i >= len(b.Stages) {
			continue // it is damaged
		}
		for _, a := range b.Stages[i].Outputs {
			called[a.Digest.String()] = calledOf(b.Stages[i].Name)
		}
	}
}

// nodeInputsCalled is the same of a node whose key text is known.
func nodeInputsCalled(n *graph.Node, text []byte, called map[string]graph.Label) {
	for i, d := range graph.InputDigests(text) {
		if i < len(n.Inputs) {
			called[d] = calledOf(n.Inputs[i].Node.Name)
		}
	}
}

// differencesOf are what the key text of a node's action does not share with
// another, or nil if one of them is not known.
func (f *preview) differencesOf(n *graph.Node, before string, text []byte) []graph.Difference {
	id, err := cache.ParseActionID(before)
	if err != nil {
		return nil
	}
	was, err := f.store.KeyText(id)
	if err != nil {
		return nil
	}
	called := maps.Clone(f.packages())
	nodeInputsCalled(n, text, called)
	return graph.Differences(was, text, called)
}
