// This file plans the download of one file whose digest the lock has.

package stages

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
)

// Names of the plan and the step, see names.go.
const (
	HintDigest = "digest" // that the file must have
	HintSize   = "size"   // that the file must have, bytes
	HintURLs   = "urls"   // of one file, a JSON array
)

const fetchRevision = 1

// fetch returns the node of one package file. Its digest is known, and so is its
// output.
func (pl *planner) fetch(section *constellations.SectionLock, p constellations.Package) *graph.Node {
	return pl.fetchURLs(path.Base(p.Filename), pl.URLs(section, p), p.SHA256, p.Size)
}

// fetchAll returns the package files as inputs.
func (pl *planner) fetchAll(section *constellations.SectionLock, ps []constellations.Package) []graph.Input {
	in := make([]graph.Input, len(ps))
	for i, p := range ps {
		in[i] = graph.Input{Name: InDeb, Node: pl.fetch(section, p), Output: OutFile}
	}
	return in
}

// fetchURLs returns the node of a file that has the SHA-256 sum, in hexadecimal, and
// the size in bytes. A plan has one node for each file: if another mirror has the
// same file, the node gets the URLs of both.
func (pl *planner) fetchURLs(name string, urls []string, sum string, size int64) *graph.Node {
	d := digest.NewDigestFromEncoded(digest.SHA256, sum)
	text, err := json.Marshal(urls)
	if err != nil {
		panic(err) // strings always marshal
	}
	shared := []runner.Mount{{Source: path.Join(pl.Root, "data", "cache", "partial"), Target: "/partial", Writable: true}}
	for _, u := range urls {
		if file, ok := strings.CutPrefix(u, "file://"); ok {
			shared = append(shared, runner.Mount{Source: file, Target: file})
		}
	}
	n := &graph.Node{
		Stage: "fetch", Revision: fetchRevision, Name: "fetch " + name,
		Outputs: []string{OutFile},
		Fixed:   map[string]graph.Artifact{OutFile: {Digest: d, Size: size}},
		Hints:   []graph.Param{{Name: HintURLs, Value: string(text)}, {Name: HintDigest, Value: d.String()}, {Name: HintSize, Value: fmt.Sprint(size)}},
		Network: runner.HostNetwork,
		Needs:   graph.Needs{Download: true},
		Shared:  shared,
	}
	if slices.ContainsFunc(urls, constellations.OfRegistry) {
		n.Network, n.Shared = runner.NoNetwork, nil // the program, which has the credentials, asks the registry
	}
	have := pl.plan.Add(n)
	if have != n && have.Hints[0] != n.Hints[0] {
		var more []string
		if err := json.Unmarshal([]byte(have.Hints[0].Value), &more); err == nil {
			urls = append(more, slices.DeleteFunc(slices.Clone(urls), func(u string) bool { return slices.Contains(more, u) })...)
		}
		if text, err = json.Marshal(urls); err == nil {
			have.Hints[0].Value = string(text)
		}
		have.Shared = append(have.Shared, shared[1:]...)
	}
	return have
}
