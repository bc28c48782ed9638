// This file explains why nodes ran: by the differences between the key texts of
// two builds, or by an input that ran and changed nothing.

package record

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"meros/cache"
	"meros/graph"
)

// Explanation says why a node would run, ran or did not run.
type Explanation struct {
	Name        string             `json:"name"`
	Stage       string             `json:"stage"`
	When        string             `json:"when"` // "next", "last", "spared" or "between"
	Reason      string             `json:"reason,omitempty"`
	Differences []graph.Difference `json:"differences,omitempty"`
	Then        []string           `json:"then,omitempty"` // nodes that may run after it
}

// Between explains the differences between two builds: the nodes of one name that
// have different keys, and the nodes that only one build has. part selects nodes
// by their names.
func Between(store *cache.Store, from, to *Build, part string) []Explanation {
	before := make(map[string]Node)
	for _, n := range from.Stages {
		before[n.Name] = n
	}
	after := make(map[string]bool)
	var all []Explanation
	for _, n := range to.Stages {
		after[n.Name] = true
		was, ok := before[n.Name]
		if n.Stage == "fetch" || !strings.Contains(n.Name, part) || ok && (was.Key == n.Key || n.Key == "" || was.Key == "") {
			continue
		}
		x := Explanation{Name: n.Name, Stage: n.Stage, When: "between"}
		if !ok {
			x.Reason = "it is new"
		} else if x.Differences = differences(store, from, to, was, n); len(x.Differences) == 0 {
			x.Reason = fmt.Sprintf("its key went from %.12s to %.12s; the key texts are gone", was.Key, n.Key)
		}
		all = append(all, x)
	}
	for _, n := range from.Stages {
		if !after[n.Name] && n.Stage != "fetch" && strings.Contains(n.Name, part) {
			all = append(all, Explanation{Name: n.Name, Stage: n.Stage, When: "between", Reason: "it is gone"})
		}
	}
	return all
}

// differences returns the differences between the key texts of a node in two
// builds.
func differences(store *cache.Store, from, to *Build, before, after Node) []graph.Difference {
	was, err := before.keyText(store)
	if err != nil {
		return nil
	}
	now, err := after.keyText(store)
	if err != nil {
		return nil
	}
	labels := make(map[string]graph.Label)
	from.labelInputs(before, labels)
	to.labelInputs(after, labels)
	return graph.Differences(was, now, labels)
}

// CutOff explains the nodes of the newest build of a name that did not run although
// an input ran. Their input gave the same bytes as before.
func (s Store) CutOff(name, part string) []Explanation {
	b, err := s.Find(name)
	if err != nil {
		return nil
	}
	var all []Explanation
	for _, n := range b.Stages {
		var ran []string
		for _, i := range n.Inputs {
			if in := b.Stages[i]; in.Outcome == "ran" && in.Stage != "fetch" {
				ran = append(ran, in.Name)
			}
		}
		if n.Outcome == "cached" && len(ran) > 0 && strings.Contains(n.Name, part) {
			all = append(all, Explanation{Name: n.Name, Stage: n.Stage, When: "spared", Reason: strings.Join(ran, ", ") + " ran and gave the same bytes as before"})
		}
	}
	return all
}

// packageFile matches the name of a node that fetches a package of Debian or
// Alpine.
var packageFile = regexp.MustCompile(`^fetch (?:([a-z0-9][a-z0-9+.-]+)_([^_/]+)_[a-z0-9-]+\.deb|([A-Za-z0-9][A-Za-z0-9+._-]*)-([0-9][^-/]*-r[0-9]+)\.apk)$`)

// labelOf returns the label of a node's output: the name and version of a
// package, or the name of the node.
func labelOf(node string) graph.Label {
	m := packageFile.FindStringSubmatch(node)
	if m == nil {
		return graph.Label{Name: node}
	}
	version := cmp.Or(m[2], m[4])
	if v, err := url.PathUnescape(version); err == nil { // the colon of an epoch
		version = v
	}
	return graph.Label{Name: cmp.Or(m[1], m[3]), Version: version}
}

// labelInputs adds the labels of a node's inputs, by their digests.
func (b *Build) labelInputs(n Node, labels map[string]graph.Label) {
	for _, i := range n.Inputs {
		if i < 0 || i >= len(b.Stages) {
			continue // the record is damaged
		}
		for _, a := range b.Stages[i].Outputs {
			labels[a.Digest.String()] = labelOf(b.Stages[i].Name)
		}
	}
}

// LabelInputs adds the labels of the inputs of a node with that key text, by
// their digests.
func LabelInputs(n *graph.Node, text []byte, labels map[string]graph.Label) {
	for i, d := range graph.InputDigests(text) {
		if i < len(n.Inputs) {
			labels[d] = labelOf(n.Inputs[i].Node.Name)
		}
	}
}

// Packages returns the packages of the two newest builds of a name, by the
// digests of their files.
func (s Store) Packages(name string) map[string]graph.Label {
	labels := make(map[string]graph.Label)
	for _, which := range []string{"~1", "~0"} {
		b, err := s.Find(name + which)
		if err != nil {
			continue // there was no such build
		}
		for _, n := range b.Stages {
			if l := labelOf(n.Name); l.Version != "" {
				for _, a := range n.Outputs {
					labels[a.Digest.String()] = l
				}
			}
		}
	}
	return labels
}
