// This file tests that hints survive wrapping and never change the text of an error.

package hint

import (
	"errors"
	"fmt"
	"testing"
)

var errFull = errors.New("no space left")

func TestOf(t *testing.T) {
	once := Add(errFull, "`meros cache gc` frees %d GB", 3)
	for name, test := range map[string]struct {
		err        error
		text, hint string
	}{
		"none":     {errFull, "no space left", ""},
		"nil":      {Add(nil, "nothing"), "", ""},
		"one":      {once, "no space left", "`meros cache gc` frees 3 GB"},
		"wrapped":  {fmt.Errorf("write disk: %w", once), "write disk: no space left", "`meros cache gc` frees 3 GB"},
		"two":      {Add(fmt.Errorf("write disk: %w", once), "use a larger disk"), "write disk: no space left", "use a larger disk\n`meros cache gc` frees 3 GB"},
		"repeated": {errors.Join(once, fmt.Errorf("again: %w", once)), "no space left\nagain: no space left", "`meros cache gc` frees 3 GB"},
		"joined":   {fmt.Errorf("%w and %w", Add(errFull, "first"), Add(errFull, "second")), "no space left and no space left", "first\nsecond"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Of(test.err); got != test.hint {
				t.Errorf("hint %q, want %q", got, test.hint)
			}
			if test.err != nil && test.err.Error() != test.text {
				t.Errorf("text %q, want %q", test.err, test.text)
			}
		})
	}
	two := Add(once, "use a larger disk")
	if got, want := Line(two), "no space left; use a larger disk; `meros cache gc` frees 3 GB"; got != want {
		t.Errorf("Line is %q, want %q", got, want)
	}
	if got, want := Lines(two), "no space left\nhint: use a larger disk\nhint: `meros cache gc` frees 3 GB"; got != want {
		t.Errorf("Lines is %q, want %q", got, want)
	}
	if Line(errFull) != errFull.Error() || Lines(errFull) != errFull.Error() {
		t.Error("an error without hints does not keep its text alone")
	}
	if !errors.Is(once, errFull) {
		t.Error("errors.Is does not find the hinted error")
	}
}
