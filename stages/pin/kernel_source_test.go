// This file tests how a branch or tag of a repository becomes a commit.

package pin

import (
	"strings"
	"testing"

	"meros/runner/hint"
)

func TestPickRef(t *testing.T) {
	a, b, c := strings.Repeat("a", 40), strings.Repeat("b", 40), strings.Repeat("c", 40)
	list := a + "\trefs/heads/master\n" + b + "\trefs/tags/v6.12\n" + c + "\trefs/tags/v6.12^{}\n" + "garbage\n"
	for _, test := range []struct{ list, ref, want, err, hint string }{
		{list, "master", a, "", ""},
		{list, "v6.12", c, "", ""},
		{list, "refs/tags/v6.12", b, "", ""},
		{list, "mastre", "", `r has no branch or tag "mastre"`, `did you mean "master"?`},
		{list, "zzzzzzzzzz", "", `r has no branch or tag "zzzzzzzzzz"`, "the repository has: master, v6.12"},
		{"", "master", "", `r has no branch or tag "master": it has no branches and no tags`, ""},
	} {
		got, err := pickRef(test.list, "r", test.ref)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got != test.want || text != test.err || hint.Of(err) != test.hint {
			t.Errorf("%s: %q, %v, hint %q", test.ref, got, err, hint.Of(err))
		}
	}
}
