// This file suggests the names of packages for a misspelt one.

package debian

import (
	"fmt"
	"slices"
	"strings"

	"meros/runner/hint"
)

// unknownName returns an error for a package that no archive has. Its hint has the
// most similar names.
func unknownName(name, suite string, known map[string]struct{}) error {
	err := fmt.Errorf("%s has no package %q", suite, name)
	if near := nearest(name, known); len(near) > 0 {
		return hint.Add(err, "did you mean %s instead of %s?", strings.Join(near, ", "), name)
	}
	return err
}

// nearest returns up to three similar names, the nearest first. Their distance is
// at most a third of the length of name, and names at a distance of two always
// count.
func nearest(name string, known map[string]struct{}) []string {
	type candidate struct {
		name     string
		distance int
	}
	limit := max(2, min(len(name), 64)/3)
	var found []candidate
	for k := range known {
		if abs(len(k)-len(name)) <= limit {
			if d := distance(name, k); d <= limit {
				found = append(found, candidate{k, d})
			}
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		if a.distance != b.distance {
			return a.distance - b.distance
		}
		return strings.Compare(a.name, b.name)
	})
	var names []string
	for _, c := range found[:min(3, len(found))] {
		names = append(names, c.name)
	}
	return names
}

// distance returns the distance of Levenshtein, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

func abs(n int) int { return max(n, -n) }
