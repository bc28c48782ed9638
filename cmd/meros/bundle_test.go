package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"meros/cache"
)

// bundle makes an archive of members, after a head.
func bundle(t testing.TB, members ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	if err := writeMember(w, bundleFile, 0o644, []byte(`{"format":1,"constellation":"lab"}`)); err != nil {
		t.Fatal(err)
	}
	for _, h := range members {
		content := h.Uname // only a way to say it in a table
		h.Uname, h.Size, h.Mode = "", int64(len(content)), 0o644
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(content))
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

func importBundle(t testing.TB, b []byte) (*bundleImport, error) {
	t.Helper()
	store, err := cache.Open(t.TempDir(), cache.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := store.NewScratch(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { scratch.Close() })
	file := filepath.Join(t.TempDir(), "x.meros")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	i := &bundleImport{store: store, scratch: scratch.Dir()}
	return i, i.read(t.Context(), file)
}

const hexOfA = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" // of "a"

func TestHostileBundle(t *testing.T) {
	const lab = "constellations/lab/"
	for name, test := range map[string]struct {
		members []tar.Header
		want    string // "" is accepted
	}{
		"an artifact":            {[]tar.Header{{Name: "cas/" + hexOfA, Uname: "a"}}, ""},
		"another's content":      {[]tar.Header{{Name: "cas/" + hexOfA, Uname: "b"}}, "its content has another digest"},
		"no digest":              {[]tar.Header{{Name: "cas/../../x", Uname: "a"}}, "neither of the cache nor of the constellation"},
		"a short digest":         {[]tar.Header{{Name: "cas/ca97", Uname: "a"}}, "its name is no digest"},
		"another's key":          {[]tar.Header{{Name: "actions/" + hexOfA + ".key", Uname: "b"}}, "the key text of another action"},
		"an entry without a key": {[]tar.Header{{Name: "actions/" + hexOfA, Uname: "{}"}}, "key text of ca978112ca1b"},
		"a damaged entry":        {[]tar.Header{{Name: "actions/" + hexOfA + ".key", Uname: "a"}, {Name: "actions/" + hexOfA, Uname: `{"entry":{},"sum":"sha256:00"}`}}, "is damaged"},
		"files":                  {[]tar.Header{{Name: lab + "m", Typeflag: tar.TypeDir}, {Name: lab + "manifest.yml", Uname: "x"}}, ""},
		"above":                  {[]tar.Header{{Name: lab + "../../x", Uname: "x"}}, "neither of the cache nor of the constellation"},
		"absolute":               {[]tar.Header{{Name: "/etc/x", Uname: "x"}}, "neither of the cache nor of the constellation"},
		"another constellation":  {[]tar.Header{{Name: "constellations/lab2/x", Uname: "x"}}, "neither of the cache nor of the constellation"},
		"a device":               {[]tar.Header{{Name: lab + "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}, "neither a file nor a directory nor a link"},
		"a hard link":            {[]tar.Header{{Name: lab + "x", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}}, "neither a file nor a directory nor a link"},
		"through a link":         {[]tar.Header{{Name: lab + "d", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}, {Name: lab + "d/x", Uname: "x"}}, "path escapes"},
		"a link to the host":     {[]tar.Header{{Name: lab + "hooks", Typeflag: tar.TypeSymlink, Linkname: "/etc"}}, "leads to nothing of the constellation"},
		"a link to nothing":      {[]tar.Header{{Name: lab + "hooks", Typeflag: tar.TypeSymlink, Linkname: "x"}}, "leads to nothing of the constellation"},
		"a link within":          {[]tar.Header{{Name: lab + "x", Uname: "x"}, {Name: lab + "y", Typeflag: tar.TypeSymlink, Linkname: "x"}}, ""},
		"a link of a machine": {[]tar.Header{
			{Name: lab + "m/includes.chroot", Typeflag: tar.TypeDir}, {Name: lab + "m/includes.chroot/x", Typeflag: tar.TypeSymlink, Linkname: "/etc"}}, ""},
		"a link by one of a machine": {[]tar.Header{
			{Name: lab + "m/includes.chroot", Typeflag: tar.TypeDir}, {Name: lab + "m/includes.chroot/x", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
			{Name: lab + "m/hooks", Typeflag: tar.TypeSymlink, Linkname: "includes.chroot/x"}}, "leads to nothing of the constellation"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := importBundle(t, bundle(t, test.members...))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func FuzzBundle(f *testing.F) {
	f.Add(bundle(f, tar.Header{Name: "cas/" + hexOfA, Uname: "a"}, tar.Header{Name: "constellations/lab/manifest.yml", Uname: "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		importBundle(t, b)
	})
}
