// Package hint carries the next step beside an error, apart from its text. So an
// error stays short, and programs can read the hint as a field. The package does
// not print: the user interface decides where a hint is shown.
//
// Every package of meros may import it.
package hint

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// hinted is an error with its next step.
type hinted struct {
	error
	hint string
}

// Unwrap returns the error without the hint.
func (h *hinted) Unwrap() error { return h.error }

// Hint returns the next step.
func (h *hinted) Hint() string { return h.hint }

// Add returns err with a next step, formatted as by [fmt.Sprintf]. The text of
// the error stays as it is. Add returns nil if err is nil.
func Add(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// Of returns the hints of err and of all errors that it wraps, outermost first,
// one a line and each once. It returns "" for an error without hints.
func Of(err error) string {
	return strings.Join(hints(err), "\n")
}

// Line returns the text of err, followed by its hints in the same line, for a note
// that has no field for them.
func Line(err error) string {
	return strings.Join(append([]string{err.Error()}, hints(err)...), "; ")
}

// Lines returns the text of err, and below it a line "hint: ..." for each hint.
func Lines(err error) string {
	return strings.Join(append([]string{err.Error()}, hints(err)...), "\nhint: ")
}

func hints(err error) (all []string) {
	collect(err, &all)
	return all
}

func collect(err error, hints *[]string) {
	if err == nil {
		return
	}
	if h, ok := err.(interface{ Hint() string }); ok {
		for line := range strings.Lines(h.Hint()) {
			if line = strings.TrimSuffix(line, "\n"); !slices.Contains(*hints, line) {
				*hints = append(*hints, line)
			}
		}
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, inner := range joined.Unwrap() {
			collect(inner, hints)
		}
		return
	}
	collect(errors.Unwrap(err), hints)
}
