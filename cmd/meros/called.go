package main

import (
	"cmp"
	"net/url"
	"regexp"

	"meros/graph"
)

// packageFile is the name of a package of Debian's or of Alpine's, as their
// archives have it.
var packageFile = regexp.MustCompile(`^fetch (?:([a-z0-9][a-z0-9+.-]+)_([^_/]+)_[a-z0-9-]+\.deb|([A-Za-z0-9][A-Za-z0-9+._-]*)-([0-9][^-/]*-r[0-9]+)\.apk)$`)

// calledOf is what an input is called: a package by its name and version, all
// else by the node's name.
func calledOf(node string) graph.Label {
	m := packageFile.FindStringSubmatch(node)
	if m == nil {
		return graph.Label{Name: node}
	}
	version := cmp.Or(m[2], m[4])
	if v, err := url.PathUnescape(version); err == nil { // of an epoch's colon
		version = v
	}
	return graph.Label{Name: cmp.Or(m[1], m[3]), Version: version}
}

// packagesOf are the packages that the two newest builds of a name were made of,
// by the digests of their files.
func (rs records) packagesOf(name string) map[string]graph.Label {
	called := make(map[string]graph.Label)
	for _, which := range []string{"~1", "~0"} {
		b, err := rs.find(name + which)
		if err != nil {
			continue // nobody knows
		}
		for _, s := range b.Stages {
			if c := calledOf(s.Name); c.Version != "" {
				for _, a := range s.Outputs {
					called[a.Digest.String()] = c
				}
			}
		}
	}
	return called
}
