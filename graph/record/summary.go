// This file answers two questions about a build: which nodes it waited for, and
// what its images are made of.

package record

import (
	"fmt"
	"slices"
	"strings"
)

// end returns the second at which the node ended, or -1 if it did not run.
func (n *Node) end() float64 {
	if n.Outcome != "ran" && n.Outcome != "failed" {
		return -1
	}
	return n.Start + n.Seconds
}

// CriticalPath returns the indexes of the nodes that the build had to wait for,
// the first one first. It goes back from the node that ended last, each time to
// the input that ended last.
func CriticalPath(nodes []Node) []int {
	latest := func(among []int) int {
		found := -1
		for _, i := range among {
			if end := nodes[i].end(); end >= 0 && (found < 0 || end > nodes[found].end()) {
				found = i
			}
		}
		return found
	}
	all := make([]int, len(nodes))
	for i := range all {
		all[i] = i
	}
	var path []int
	for i := latest(all); i >= 0; i = latest(nodes[i].Inputs) {
		path = append(path, i)
	}
	slices.Reverse(path)
	return path
}

// Material is a download that a build needed.
type Material struct {
	Name, Digest, URL string
	Size              int64    // bytes
	Images            []string // the machines whose images contain it
}

// In names the images, or some of many.
func (m Material) In() string {
	if len(m.Images) > 4 {
		return fmt.Sprintf("%s and %d more", strings.Join(m.Images[:3], ", "), len(m.Images)-3)
	}
	return strings.Join(m.Images, ", ")
}

// Materials returns the downloads of the build.
func (b *Build) Materials() []Material {
	images := make([]map[string]bool, len(b.Stages))
	for i := range images {
		images[i] = make(map[string]bool)
	}
	for i, n := range slices.Backward(b.Stages) {
		if machine, _, ok := OwnedBy(b.Name, n.Name); ok && n.Target {
			images[i][machine] = true
		}
		for _, in := range n.Inputs {
			for m := range images[i] {
				images[in][m] = true
			}
		}
	}
	all := []Material{}
	for i, n := range b.Stages {
		if n.Stage != "fetch" {
			continue
		}
		m := Material{Name: n.Name, URL: n.URL}
		for _, a := range n.Outputs {
			m.Digest, m.Size = string(a.Digest), a.Size
		}
		for machine := range images[i] {
			m.Images = append(m.Images, machine)
		}
		slices.Sort(m.Images)
		all = append(all, m)
	}
	return all
}
