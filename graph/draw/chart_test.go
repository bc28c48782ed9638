// This test checks that bars that overlap in time get rows of their own.

package draw

import (
	"slices"
	"testing"
)

func TestRows(t *testing.T) {
	row, n := rows([]Bar{{Name: "a", Start: 0, Seconds: 5}, {Name: "b", Start: 0, Seconds: 1}, {Name: "d", Start: 5, Seconds: 1}})
	if want := []int{0, 1, 0}; n != 2 || !slices.Equal(row, want) {
		t.Errorf("rows %v of %d, want %v of 2", row, n, want)
	}
}
