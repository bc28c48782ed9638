// These tests send hostile and truncated archives to a receiver.

package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sentArchive returns a tar archive of the headers. Each regular file holds its own
// name.
func sentArchive(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		h.ModTime = time.Unix(1e9, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(h.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A hostile archive writes nothing outside of the requested names.
func TestReceiveHostile(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	dir := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	hard := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	for name, test := range map[string]struct {
		headers []tar.Header
		fails   bool
	}{
		"another name":      {[]tar.Header{file("d/f"), file(".bashrc")}, true},
		"another directory": {[]tar.Header{dir(".ssh/")}, true},
		"a link to here":    {[]tar.Header{link("d", "."), file("d/.bashrc")}, true},
		"by two links":      {[]tar.Header{link("d/up", ".."), hard("d/too", "d/up"), file("d/too/.bashrc")}, true},
		"directory at link": {[]tar.Header{link("d", "."), dir("d/")}, true},
		"of another name":   {[]tar.Header{hard("h", ".profile")}, true},
		"within":            {[]tar.Header{dir("d/"), file("d/f"), link("d/l", "f"), hard("d/h", "d/f"), file("./d/.bashrc")}, false},
		"dots":              {[]tar.Header{file("../victim")}, true},
		"absolute":          {[]tar.Header{file(victim)}, true},
		"through a link":    {[]tar.Header{link("d", outside), file("d/victim")}, true},
		"through dots":      {[]tar.Header{link("d", "../.."), file("d/x")}, true},
		"over a link":       {[]tar.Header{link("f", victim), file("f")}, false},
		"a link to outside": {[]tar.Header{link("f", "../../etc/passwd")}, false},
		"hard link":         {[]tar.Header{{Typeflag: tar.TypeLink, Name: "h", Linkname: "../victim"}}, true},
		"hard link by link": {[]tar.Header{link("d", outside), {Typeflag: tar.TypeLink, Name: "h", Linkname: "d/victim"}}, true},
		"a device":          {[]tar.Header{{Typeflag: tar.TypeBlock, Name: "b", Devmajor: 8, Mode: 0o666}}, false},
		"a pipe":            {[]tar.Header{{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o666}}, false},
		"directory mode":    {[]tar.Header{{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o7000}, file("d/f")}, false},
		"the directory":     {[]tar.Header{{Typeflag: tar.TypeDir, Name: "./", Mode: 0}}, true},
		"file over a tree":  {[]tar.Header{file("d/f"), file("d")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, ".profile"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			err := NewReceiver(dir, []string{"x/d", "/h/", "f", "b", "p"}, func(string) {}).Receive(t.Context(), bytes.NewReader(sentArchive(t, test.headers...)))
			if (err != nil) != test.fails {
				t.Errorf("%v", err)
			}
			if b, err := os.ReadFile(victim); err != nil || string(b) != "mine" {
				t.Errorf("the victim is %q, %v", b, err)
			}
			if fi, err := os.Lstat(victim); err != nil || fi.Mode() != 0o644 {
				t.Errorf("the victim is %v, %v", fi, err)
			}
			filepath.WalkDir(filepath.Dir(dir), func(file string, d os.DirEntry, err error) error {
				if err == nil && (strings.Contains(file, ".meros-") || d.Type()&^(os.ModeDir|os.ModeSymlink) != 0) {
					t.Errorf("%s, %v", file, d.Type())
				}
				return nil
			})
		})
	}
}

// Nobody else can write a received file, and it runs as nobody else. If the
// content of a directory was requested, any name is accepted.
func TestReceiveModes(t *testing.T) {
	dir := t.TempDir()
	sent := sentArchive(t, tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0}, tar.Header{Typeflag: tar.TypeReg, Name: "./s", Mode: 0o6777},
		tar.Header{Typeflag: tar.TypeReg, Name: "./k", Mode: 0o600}, tar.Header{Typeflag: tar.TypeReg, Name: "./r", Mode: 0o754},
		tar.Header{Typeflag: tar.TypeDir, Name: "./d/", Mode: 0o3777})
	if err := NewReceiver(dir, []string{"x", "logs/."}, nil).Receive(t.Context(), bytes.NewReader(sent)); err == nil {
		t.Error("a file that was not requested was accepted")
	}
	if err := NewReceiver(dir, []string{"x", ".."}, nil).Receive(t.Context(), bytes.NewReader(sent)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"s": 0o755, "k": 0o600, "r": 0o754, "d": 0o755 | os.ModeDir} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, fi, err, want)
		}
	}
}

// An archive that ends early leaves the old file unchanged.
func TestReceiveTruncated(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, strings.Repeat("x", 90)), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	whole := sentArchive(t, tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("x", 90), Mode: 0o644})
	if err := NewReceiver(dir, []string{strings.Repeat("x", 90)}, nil).Receive(t.Context(), bytes.NewReader(whole[:512+40])); err == nil {
		t.Error("a truncated archive was accepted")
	}
	found, err := os.ReadDir(dir)
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, found[0].Name())); err != nil || string(b) != "old" {
		t.Errorf("%q, %v", b, err)
	}
}
