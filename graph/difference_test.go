// This file tests the comparison of key texts.

package graph

import (
	"slices"
	"strings"
	"testing"
)

func TestDifferences(t *testing.T) {
	a, b, c := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	bootstrap := map[string]Label{"sha256:" + b: {Name: "base bootstrap"}}
	packages := map[string]Label{"sha256:" + a: {"nginx", "1.1"}, "sha256:" + b: {"nginx", "1.2"}, "sha256:" + c: {"adduser", "3"}}
	rebuilt := map[string]Label{"sha256:" + a: {"nginx", "1.1"}, "sha256:" + b: {"nginx", "1.1"}}
	for name, test := range map[string]struct {
		before, after string
		labels        map[string]Label
		want          []string
	}{
		"nothing":     {"stage x\nparam p v\ninput lower sha256:" + a, "stage x\nparam p v\ninput lower sha256:" + a, bootstrap, nil},
		"a parameter": {"revision 1\nparam names \"one two\"", "revision 2\nparam names \"one three\"", nil, []string{"revision: 1 -> 2", "names: two -> three"}},
		"a file": {"local inc sha256:" + a + "\nlocal inc . mode 040755\nlocal inc etc/motd mode 100644 content " + a, "local inc sha256:" + b + "\nlocal inc . mode 040755\nlocal inc etc/motd mode 100644 content " + b,
			nil, []string{"inc/etc/motd: content aaaaaaaa -> bbbbbbbb"}},
		"a file's mode": {"local inc sha256:" + a + "\nlocal inc \"etc/a b\" mode 100644 content " + a, "local inc sha256:" + b + "\nlocal inc \"etc/a b\" mode 100755 content " + a,
			nil, []string{"inc/etc/a b: mode 100644 -> 100755"}},
		"a new file and one that is gone": {"local inc x mode 100644 content " + a, "local inc y mode 100644 content " + a,
			nil, []string{"inc/y: new (mode 100644 content aaaaaaaa)", "inc/x: gone (mode 100644 content aaaaaaaa)"}},
		"a hook":                   {"local hooks/1 sha256:" + a + "\nlocal hooks/1 content " + b, "local hooks/1 sha256:" + b + "\nlocal hooks/1 content " + c, nil, []string{"hooks/1: content bbbbbbbb -> cccccccc"}},
		"a tree that is too large": {"local src sha256:" + a, "local src sha256:" + b, nil, []string{"src: aaaaaaaa -> bbbbbbbb"}},
		"an input":                 {"input lower sha256:" + a, "input lower sha256:" + b, bootstrap, []string{"base bootstrap: aaaaaaaa -> bbbbbbbb"}},
		"one more in a list":       {"input deb sha256:" + a + "\ninput deb sha256:" + c, "input deb sha256:" + a + "\ninput deb sha256:" + b + "\ninput deb sha256:" + c, nil, []string{"input deb: new (bbbbbbbb)"}},
		"one less in a list":       {"input deb sha256:" + a + "\ninput deb sha256:" + c, "input deb sha256:" + c, nil, []string{"input deb: gone (aaaaaaaa)"}},
		"a newer package":          {"input deb sha256:" + a, "input deb sha256:" + c + "\ninput deb sha256:" + b, packages, []string{"adduser: new (3)", "nginx: 1.1 -> 1.2"}},
		"another package":          {"input deb sha256:" + a, "input deb sha256:" + c, packages, []string{"adduser: new (3)", "nginx: gone (1.1)"}},
		"a rebuilt package":        {"input deb sha256:" + a, "input deb sha256:" + b, rebuilt, []string{"nginx 1.1: aaaaaaaa -> bbbbbbbb"}},
		"a package in two lists":   {"input deb sha256:" + a, "input alone sha256:" + b, packages, []string{"nginx: new (1.2)", "nginx: gone (1.1)"}},
		"an input without a label": {"input deb sha256:" + strings.Repeat("d", 64), "input deb sha256:" + b, packages, []string{"nginx: new (1.2)", "input deb: gone (dddddddd)"}},
		"no key text":              {"", "stage x\n", nil, []string{"stage: new (x)"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, d := range Differences([]byte(test.before), []byte(test.after), test.labels) {
				got = append(got, d.String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func FuzzDifferences(f *testing.F) {
	f.Add("local a \"b c\" mode 1\ninput x sha256:1\n", "param p \"q\nr")
	f.Fuzz(func(t *testing.T, a, b string) {
		if ds := Differences([]byte(a), []byte(a), nil); len(ds) > 0 {
			t.Errorf("a text differs from itself: %v", ds)
		}
		Differences([]byte(a), []byte(b), nil)
	})
}
