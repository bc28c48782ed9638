// This file tests listings.

package layer

import (
	"archive/tar"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// archive writes a layer of entries: a name that ends in a slash is a
// directory, "name=text" a file, "name>target" a link.
func archive(t testing.TB, entries ...string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "layer"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, e := range entries {
		h := tar.Header{Name: e, Mode: 0o644, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		name, text, isFile := strings.Cut(e, "=")
		switch {
		case isFile:
			h.Name, h.Size = name, int64(len(text))
		case strings.HasSuffix(e, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case strings.Contains(e, ">"):
			h.Typeflag = tar.TypeSymlink
			h.Name, h.Linkname, _ = strings.Cut(e, ">")
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(text))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func TestList(t *testing.T) {
	base := archive(t, "a=1", "d/", "d/x=1", "d/y=1", "d/z/", "d/z/f=1", "e/", "e/f=1", "g/", "g/h=1")
	for name, test := range map[string]struct {
		upper []string
		want  string
	}{
		"nothing":                          {nil, "a d d/x d/y d/z d/z/f e e/f g g/h"},
		"one more file":                    {[]string{"d/", "d/n=1"}, "a d d/n d/x d/y d/z d/z/f e e/f g g/h"},
		"one file less":                    {[]string{"d/", "d/.wh.x"}, "a d d/y d/z d/z/f e e/f g g/h"},
		"one directory less":               {[]string{".wh.d"}, "a e e/f g g/h"},
		"a replaced directory":             {[]string{"d/", "d/.wh..wh..opq", "d/n=1"}, "a d d/n e e/f g g/h"},
		"emptied after its new content":    {[]string{"d/", "d/n=1", "d/.wh..wh..opq"}, "a d d/n e e/f g g/h"},
		"a directory that became a file":   {[]string{"d=1"}, "a d e e/f g g/h"},
		"a file that became a directory":   {[]string{"a/", "a/b=1"}, "a a/b d d/x d/y d/z d/z/f e e/f g g/h"},
		"removed and created again":        {[]string{".wh.d", "d/", "d/n=1"}, "a d d/n e e/f g g/h"},
		"above an emptied directory":       {[]string{"d/", "d/z/", "d/z/.wh..wh..opq"}, "a d d/x d/y d/z e e/f g g/h"},
		"a name that begins another":       {[]string{".wh.e"}, "a d d/x d/y d/z d/z/f g g/h"},
		"a directory that became a link":   {[]string{"g>d"}, "a d d/x d/y d/z d/z/f e e/f g"},
		"the file below it is not removed": {[]string{"d/.wh.x"}, "a d d/y d/z d/z/f e e/f g g/h"},
	} {
		l, err := List(t.Context(), []string{base, archive(t, test.upper...)}, "a", "d/n")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for n := range l.Entries {
			got = append(got, n)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %v, want %s", name, got, test.want)
		}
		if e := l.Entries["a"]; e.Type == tar.TypeReg && (string(l.Contents["a"]) != "1" || len(e.Content) != 64) {
			t.Errorf("%s: %+v, %q", name, e, l.Contents["a"])
		}
	}
	for _, hostile := range []string{"../x=1", "/x=1", "a/../x=1"} {
		if _, err := List(t.Context(), []string{archive(t, hostile)}); err == nil {
			t.Errorf("%s was read", hostile)
		}
	}
}
