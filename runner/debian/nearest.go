package debian

import (
	"fmt"
	"slices"
	"strings"
)

// unknownName is the error for a package that is in no archive, with the
// names that look most like it.
func unknownName(name, suite string, known map[string]struct{}) error {
	near := nearest(name, known)
	if len(near) == 0 {
		return fmt.Errorf("%s has no package %q", suite, name)
	}
	return fmt.Errorf("%s has no package %q (did you mean %s?)", suite, name, strings.Join(near, ", "))
}

// nearest are up to three names within a third of the letters of name, or
// two, the nearest first.
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

// distance is Levenshtein's, in bytes.
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
