// This file tests packages that are damaged or hostile.

package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// arFile returns an ar archive of the given members: name, content, name, ...
func arFile(members ...string) []byte {
	var b bytes.Buffer
	b.WriteString(arMagic)
	for i := 0; i < len(members); i += 2 {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d%s", members[i], 0, 0, 0, "100644", len(members[i+1]), arEnd)
		b.WriteString(members[i+1])
		if len(members[i+1])%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// tarFile returns a tar archive of the given entries. The content of a regular
// file is in its Linkname.
func tarFile(t testing.TB, entries ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text, h.Linkname, h.Size = h.Linkname, "", int64(len(h.Linkname))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	w.Close()
	return b.String()
}

func gz(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.String()
}

func zst(s string) string {
	w, _ := zstd.NewWriter(nil)
	return string(w.EncodeAll([]byte(s), nil))
}

// releaseEpoch is 2024-01-01.
var releaseEpoch = time.Unix(1704067200, 0)

const goodControl = "Package: foo\nVersion: 1.0-1\nArchitecture: amd64\nDescription: x\n y\n"

func control(text string) tar.Header {
	return tar.Header{Name: "./control", Typeflag: tar.TypeReg, Mode: 0o644, Linkname: text}
}

func openBytes(t testing.TB, b []byte) (*deb, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return openDeb(t.Context(), file)
}

func TestOpenDeb(t *testing.T) {
	data := tarFile(t, tar.Header{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "./usr/f", Typeflag: tar.TypeReg, Linkname: "text"})
	good := tarFile(t, tar.Header{Name: "./", Typeflag: tar.TypeDir}, control(goodControl))
	for name, test := range map[string]struct {
		file []byte
		err  string // "" is success
	}{
		"plain":          {arFile("debian-binary", "2.0\n", "control.tar", good, "data.tar", data), ""},
		"gzip":           {arFile("debian-binary", "2.0\n", "control.tar.gz", gz(good), "data.tar.gz", gz(data)), ""},
		"zstd":           {arFile("debian-binary", "2.0\n", "control.tar.zst", zst(good), "data.tar.zst", zst(data)), ""},
		"signature":      {arFile("debian-binary", "2.0\n", "_gpgorigin", "x", "control.tar", good, "data.tar", data), ""},
		"empty":          {nil, "not an ar archive"},
		"html":           {[]byte("<!DOCTYPE html><html>"), "not an ar archive"},
		"no members":     {arFile(), "debian-binary"},
		"other":          {arFile("x", "y"), "debian-binary"},
		"old":            {arFile("debian-binary", "0.9\n"), "only 2.x is supported"},
		"no data":        {arFile("debian-binary", "2.0\n", "control.tar", good), "no control.tar followed by a data.tar"},
		"order":          {arFile("debian-binary", "2.0\n", "data.tar", data, "control.tar", good), "in an unexpected place"},
		"compression":    {arFile("debian-binary", "2.0\n", "control.tar.rar", good, "data.tar", data), "unknown compression"},
		"damaged gzip":   {arFile("debian-binary", "2.0\n", "control.tar.gz", gz(good)[:40], "data.tar", data), "unexpected EOF"},
		"no control":     {arFile("debian-binary", "2.0\n", "control.tar", tarFile(t), "data.tar", data), "control: is empty"},
		"bad name":       {arFile("debian-binary", "2.0\n", "control.tar", tarFile(t, control("Package: ../x\nVersion: 1\nArchitecture: all\n")), "data.tar", data), "bad package name"},
		"script upwards": {arFile("debian-binary", "2.0\n", "control.tar", tarFile(t, tar.Header{Name: "../postinst", Typeflag: tar.TypeReg}), "data.tar", data), "not a plain file"},
		"script link":    {arFile("debian-binary", "2.0\n", "control.tar", tarFile(t, tar.Header{Name: "postinst", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}), "data.tar", data), "not a plain file"},
		"twice":          {arFile("debian-binary", "2.0\n", "control.tar", tarFile(t, control(goodControl), control(goodControl)), "data.tar", data), "is a duplicate"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := openBytes(t, test.file)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("%v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer d.close()
			var names []string
			err = d.contents(t.Context(), func(h *tar.Header, r io.Reader) error {
				b, err := io.ReadAll(r)
				names = append(names, h.Name+string(b))
				return err
			})
			if got := strings.Join(names, " "); err != nil || got != "./usr/ ./usr/ftext" || d.name() != "foo" || d.control.get("description") != "x\n y" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	// A truncated package is an error, wherever it is cut.
	whole := arFile("debian-binary", "2.0\n", "control.tar.gz", gz(good), "data.tar.gz", gz(data))
	for n := range whole {
		if d, err := openBytes(t, whole[:n]); err == nil {
			d.close()
			t.Fatalf("%d of %d bytes were accepted as a package", n, len(whole))
		}
	}
}

// A package's data stays in its tree, and a conflict is an error.
func TestHostilePackage(t *testing.T) {
	outside := t.TempDir()
	for name, test := range map[string]struct {
		entries []tar.Header
		err     string
	}{
		"upwards":          {[]tar.Header{{Name: "../x", Typeflag: tar.TypeReg}}, "not a path within the tree"},
		"newline":          {[]tar.Header{{Name: "a\nb", Typeflag: tar.TypeReg}}, "not a path within the tree"},
		"through a link":   {[]tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l/x", Typeflag: tar.TypeReg}}, "l/x"},
		"hard link out":    {[]tar.Header{{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../../../etc/passwd"}}, "h"},
		"twice":            {[]tar.Header{{Name: "x", Typeflag: tar.TypeReg}, {Name: "x", Typeflag: tar.TypeReg}}, "exists already"},
		"root is a file":   {[]tar.Header{{Name: ".", Typeflag: tar.TypeReg}}, "is not a directory"},
		"directory is one": {[]tar.Header{{Name: "x", Typeflag: tar.TypeReg}, {Name: "x/", Typeflag: tar.TypeDir, Mode: 0o755}}, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tr, err := openTree(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer tr.close()
			u := newUnpacker(tr, nil)
			defer u.close()
			for _, h := range test.entries {
				if err = u.entry(&h, strings.NewReader("")); err != nil {
					break
				}
			}
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%v, want %q", err, test.err)
			}
			if found, _ := os.ReadDir(outside); len(found) > 0 {
				t.Errorf("%v were created outside", found)
			}
		})
	}
}

func TestParseApt(t *testing.T) {
	if key, ok := parseInst("Inst libc6:i386 [2.30] (2.36-9 Debian:12.1/stable [i386])"); !ok || key != "libc6 2.36-9 i386" {
		t.Errorf("%q, %v", key, ok)
	}
	r := &Resolver{opts: ResolverOptions{Archives: []Archive{{Name: "main", URL: "http://mirror.example/debian"}}}}
	sum := strings.Repeat("ab", 32)
	line := "'http://mirror.example/debian/pool/main/g/g++/g%2b%2b_1%3a2_amd64.deb' g++_1%3a2_amd64.deb 123 SHA256:" + sum
	p, err := r.parseURI(line + "\n")
	if err != nil || p.Name != "g++" || p.Version != "1:2" || p.Filename != "pool/main/g/g++/g++_1:2_amd64.deb" || p.Size != 123 || p.SHA256 != sum || p.Archive != "main" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{
		"'http://other.example/x_1_all.deb' x_1_all.deb 1 SHA256:" + sum,
		"'http://mirror.example/debian/../x_1_all.deb' x_1_all.deb 1 SHA256:" + sum,
		"'http://mirror.example/debian/x_1_all.deb' x_1_all.deb 1 MD5Sum:" + sum,
		"'http://mirror.example/debian/x_1_all.deb' ../x_1_all.deb 1 SHA256:" + sum,
	} {
		if p, err := r.parseURI(bad); err == nil {
			t.Errorf("%s became %+v", bad, p)
		}
	}
}

// An installation leaves no trace of its time, and Clean follows no link in the
// tree.
func TestClean(t *testing.T) {
	tree, outside := t.TempDir(), t.TempDir()
	gone := []string{"var/log/apt/term.log", "var/log/dpkg.log", "var/lib/apt/lists/x", "var/cache/apt/pkgcache.bin", "tmp/x/y", "etc/passwd-"}
	stay := []string{"var/log/apt", "var/lib/apt/lists/partial", "etc/shadow", "var/lib/dpkg/status"}
	for _, name := range append(gone, "var/lib/dpkg/status") {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755), os.WriteFile(filepath.Join(tree, name), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		os.MkdirAll(filepath.Join(tree, "var/lib/apt/lists/partial"), 0o755),
		os.WriteFile(filepath.Join(tree, "etc/shadow"), []byte("root:*:29000:0:99999:7:::\nold:*:100:0::::\nbad\n"), 0o640),
		os.WriteFile(filepath.Join(outside, "x"), nil, 0o644),
		os.Symlink(outside, filepath.Join(tree, "run")),
	); err != nil {
		t.Fatal(err)
	}
	if err := Clean(tree, releaseEpoch); err == nil {
		t.Error("a directory that is a link to the host was cleaned")
	}
	if _, err := os.Stat(filepath.Join(outside, "x")); err != nil {
		t.Fatal("a file of the host is gone")
	}
	if err := errors.Join(os.Remove(filepath.Join(tree, "run")), Clean(tree, releaseEpoch)); err != nil {
		t.Fatal(err)
	}
	for _, name := range gone {
		if _, err := os.Lstat(filepath.Join(tree, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range stay {
		if _, err := os.Lstat(filepath.Join(tree, name)); err != nil {
			t.Error(err)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(tree, "etc/shadow")); string(b) != "root:*:19723:0:99999:7:::\nold:*:100:0::::\nbad\n" {
		t.Errorf("%q", b)
	}
}

func FuzzDeb(f *testing.F) {
	data := tarFile(f, tar.Header{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "./usr/l", Typeflag: tar.TypeSymlink, Linkname: "../.."})
	f.Add(arFile("debian-binary", "2.0\n", "control.tar", tarFile(f, control(goodControl)), "data.tar", data))
	f.Add(arFile("debian-binary", "2.0\n", "control.tar.gz", gz(tarFile(f, control(goodControl))), "data.tar.zst", zst(data)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Contains(b, []byte(".xz")) || bytes.Contains(b, []byte(".lzma")) {
			return // xz, another program, parses these
		}
		d, err := openBytes(t, b)
		if err != nil {
			return
		}
		defer d.close()
		dir := t.TempDir()
		tr, err := openTree(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.close()
		u := newUnpacker(tr, nil)
		defer u.close()
		d.contents(t.Context(), func(h *tar.Header, r io.Reader) error {
			if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock || h.Size > 1<<20 {
				return unix.EPERM
			}
			return u.entry(h, r)
		})
		if found, _ := os.ReadDir(filepath.Dir(dir)); len(found) > 3 {
			t.Errorf("found %v beside the tree", found)
		}
	})
}

func FuzzStanzas(f *testing.F) {
	f.Add([]byte(goodControl))
	f.Add([]byte("A: b\n# c\n\n\nB:\n c\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		stanzas(bytes.NewReader(b), func(s stanza) error {
			for _, field := range s {
				if !validFieldName(field.name) || s.get(field.name) != field.value {
					t.Errorf("%q", s)
				}
			}
			return nil
		})
		parseControl(bytes.NewReader(b))
	})
}

func FuzzSources(f *testing.F) {
	f.Add([]byte("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main # x\n"))
	f.Add([]byte("Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN PGP\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, a := range append(parseOneLineSources(b), parseDeb822Sources(b)...) {
			if a.check() == nil && strings.ContainsAny(a.URL, " \n") {
				t.Errorf("%+v", a)
			}
		}
	})
}
