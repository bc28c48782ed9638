package graph

import (
	"slices"
	"strings"
	"testing"
)

func TestDifferences(t *testing.T) {
	a, b, c := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	lower := &Node{Name: "base bootstrap"}
	n := &Node{Inputs: []Input{{Name: "lower", Node: lower}}}
	for name, test := range map[string]struct {
		before, after string
		node          *Node
		want          []string
	}{
		"nothing":     {"stage x\nparam p v\ninput lower sha256:" + a, "stage x\nparam p v\ninput lower sha256:" + a, n, nil},
		"a parameter": {"revision 1\nparam names \"one two\"", "revision 2\nparam names \"one three\"", nil, []string{"revision: 1 -> 2", "names: two -> three"}},
		"a file": {"local inc sha256:" + a + "\nlocal inc . mode 040755\nlocal inc etc/motd mode 100644 content " + a, "local inc sha256:" + b + "\nlocal inc . mode 040755\nlocal inc etc/motd mode 100644 content " + b,
			nil, []string{"inc/etc/motd: content aaaaaaaa -> bbbbbbbb"}},
		"a file's mode": {"local inc sha256:" + a + "\nlocal inc \"etc/a b\" mode 100644 content " + a, "local inc sha256:" + b + "\nlocal inc \"etc/a b\" mode 100755 content " + a,
			nil, []string{"inc/etc/a b: mode 100644 -> 100755"}},
		"a new file and one that is gone": {"local inc x mode 100644 content " + a, "local inc y mode 100644 content " + a,
			nil, []string{"inc/y: new (mode 100644 content aaaaaaaa)", "inc/x: gone (mode 100644 content aaaaaaaa)"}},
		"a hook":                   {"local hooks/1 sha256:" + a + "\nlocal hooks/1 content " + b, "local hooks/1 sha256:" + b + "\nlocal hooks/1 content " + c, nil, []string{"hooks/1: content bbbbbbbb -> cccccccc"}},
		"a tree that is too large": {"local src sha256:" + a, "local src sha256:" + b, nil, []string{"src: aaaaaaaa -> bbbbbbbb"}},
		"an input":                 {"input lower sha256:" + a, "input lower sha256:" + b, n, []string{"base bootstrap: aaaaaaaa -> bbbbbbbb"}},
		"one more in a list":       {"input deb sha256:" + a + "\ninput deb sha256:" + c, "input deb sha256:" + a + "\ninput deb sha256:" + b + "\ninput deb sha256:" + c, nil, []string{"input deb: new (bbbbbbbb)"}},
		"one less in a list":       {"input deb sha256:" + a + "\ninput deb sha256:" + c, "input deb sha256:" + c, nil, []string{"input deb: gone (aaaaaaaa)"}},
		"no key text":              {"", "stage x\n", nil, []string{"stage: new (x)"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, d := range Differences([]byte(test.before), []byte(test.after), test.node) {
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
		Differences([]byte(a), []byte(b), &Node{})
	})
}
