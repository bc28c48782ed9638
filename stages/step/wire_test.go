package step

import (
	"errors"
	"strings"
	"testing"
)

// What a program says first is told, however much of usage it says then.
func TestStageFailure(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"no room", "no room"},
		{"mkfs: exit status 1: too small\n" + strings.Repeat("usage\n", 40) + "end", "mkfs: exit status 1: too small\nusage\nusage\nusage\n(34 lines, in the log)\nusage\nusage\nusage\nend"},
	} {
		said := stageFailure(errors.New(test.text))
		lines := strings.Split(strings.TrimSuffix(said, "\n"), "\n")
		got, ok := StageError(lines[max(len(lines)-20, 0):])
		if !ok || got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
		if !strings.Contains(said, test.text) {
			t.Errorf("the log lacks some of %q", test.text)
		}
	}
}
