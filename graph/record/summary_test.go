// This test checks which nodes a build waited for.

package record

import (
	"slices"
	"testing"
)

func TestCriticalPath(t *testing.T) {
	got := CriticalPath([]Node{
		{Name: "a", Outcome: "ran", Start: 0, Seconds: 5},
		{Name: "b", Outcome: "ran", Start: 0, Seconds: 1},
		{Name: "c", Outcome: "cached", Inputs: []int{0}},
		{Name: "d", Outcome: "ran", Start: 5, Seconds: 1, Inputs: []int{0, 1, 2}},
		{Name: "e", Outcome: "skipped", Inputs: []int{3}},
	})
	if want := []int{0, 3}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
