// This file tests the import of layers that other tools wrote, hostile ones included.

package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/bench/lab"
)

// foreign returns an archive of the headers. The content of each file is its name.
func foreign(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			fmt.Fprint(w, h.Name)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const (
	reg  = tar.TypeReg
	dir  = tar.TypeDir
	hard = tar.TypeLink
	sym  = tar.TypeSymlink
)

// Archives of other tools come out in the form of our layers.
func TestImport(t *testing.T) {
	lab.NeedRoot(t)
	lower := t.TempDir()
	for _, d := range []string{"var/tmp", "usr/lib"} {
		if err := os.MkdirAll(filepath.Join(lower, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/lib", filepath.Join(lower, "lib")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(lower, "var/tmp"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		in   []tar.Header
		want []string // in the form of entries
	}{
		"names": {[]tar.Header{{Name: "./", Typeflag: dir}, {Name: "./b", Typeflag: reg}, {Name: "a//x/", Typeflag: dir, Mode: 0o700}, {Name: "./a/x/y", Typeflag: reg}},
			[]string{"5 0755 0:0 a/", "5 0700 0:0 a/x/", "0 0755 0:0 a/x/y", "0 0755 0:0 b"}},
		"parents as below": {[]tar.Header{{Name: "var/tmp/x", Typeflag: reg}}, []string{"5 0755 0:0 var/", "5 1777 0:0 var/tmp/", "0 0755 0:0 var/tmp/x"}},
		"the last wins": {[]tar.Header{{Name: "a", Typeflag: reg}, {Name: "a", Typeflag: reg, Mode: 0o600}, {Name: "d", Typeflag: dir}, {Name: "d", Typeflag: dir, Mode: 0o700}, {Name: "e/f", Typeflag: reg}, {Name: "e", Typeflag: sym, Linkname: "a"}},
			[]string{"0 0600 0:0 a", "5 0700 0:0 d/", "2 0777 0:0 e a"}},
		"whiteouts": {[]tar.Header{{Name: "d/.wh.gone", Typeflag: reg}, {Name: "d/.wh..wh.plnk", Typeflag: reg}, {Name: "o/.wh..wh..opq", Typeflag: reg}, {Name: "kept", Typeflag: reg}, {Name: ".wh.kept", Typeflag: reg}},
			[]string{"5 0755 0:0 d/", "0 0644 0:0 d/.wh.gone", "0 0755 0:0 kept", "5 0755 0:0 o/", "0 0644 0:0 o/.wh..wh..opq"}},
		"a directory in the place of another": {[]tar.Header{{Name: ".wh.d", Typeflag: reg}, {Name: "d/new", Typeflag: reg}},
			[]string{"5 0755 0:0 d/", "0 0644 0:0 d/.wh..wh..opq", "0 0755 0:0 d/new"}},
		"below a link": {[]tar.Header{{Name: "lib/x/y", Typeflag: reg}, {Name: "run/z", Typeflag: reg}},
			[]string{"5 0755 0:0 run/", "0 0755 0:0 run/z", "5 0755 0:0 usr/", "5 0755 0:0 usr/lib/", "5 0755 0:0 usr/lib/x/", "0 0755 0:0 usr/lib/x/y"}},
		"all below hidden": {[]tar.Header{{Name: "var/new", Typeflag: reg}, {Name: ".wh..wh..opq", Typeflag: reg}},
			[]string{"0 0644 0:0 .wh.lib", "0 0644 0:0 .wh.usr", "5 0755 0:0 var/", "0 0644 0:0 var/.wh..wh..opq", "0 0755 0:0 var/new"}},
		"owners": {[]tar.Header{{Name: "a", Typeflag: reg, Uid: 65535, Gid: 65535}, {Name: ".wh.x", Typeflag: reg, Uid: 1 << 20}, {Name: "sda", Typeflag: tar.TypeBlock, Uid: 1 << 20}},
			[]string{"0 0755 65535:65535 a", "0 0644 0:0 .wh.x"}},
		"times":      {[]tar.Header{{Name: "a", Typeflag: reg, ModTime: time.Unix(1<<40, 0), Format: tar.FormatPAX}}, []string{"0 0755 0:0 a"}},
		"no devices": {[]tar.Header{{Name: "dev", Typeflag: dir}, {Name: "dev/sda", Typeflag: tar.TypeBlock, Devmajor: 8}, {Name: "gone", Typeflag: tar.TypeChar}}, []string{"5 0755 0:0 dev/"}},
		"links":      {[]tar.Header{{Name: "./z", Typeflag: reg}, {Name: "./y", Typeflag: hard, Linkname: "./z"}, {Name: "s", Typeflag: sym, Linkname: "/etc/../.."}}, []string{"2 0777 0:0 s /etc/../..", "0 0755 0:0 y", "1 0755 0:0 z y"}},
	} {
		t.Run(name, func(t *testing.T) {
			tree := filepath.Join(t.TempDir(), "tree")
			if err := Import(t.Context(), bytes.NewReader(foreign(t, test.in...)), tree, lower); err != nil {
				t.Fatal(err)
			}
			archive := captured(t, tree)
			if got := entries(t, archive); !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
			if _, err := unpack(t, archive); err != nil {
				t.Errorf("Unpack refuses it: %v", err)
			}
		})
	}
}

// Import preserves a layer's attributes, except for the ones that have a meaning for
// overlays.
func TestImportAttributes(t *testing.T) {
	lab.NeedRoot(t)
	const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // capabilities(7)
	records := map[string]string{"user.mine": "x", "security.capability": netRaw, "security.selinux": "x"}
	for _, prefix := range []string{"user.overlay.", "trusted.overlay."} {
		for name, value := range map[string]string{"opaque": "y", "redirect": "/etc", "whiteout": "y", "metacopy": "", "origin": "x"} {
			records[prefix+name] = value
		}
	}
	pax := make(map[string]string)
	for name, value := range records {
		pax[xattrRecord+name] = value
	}
	delete(pax, xattrRecord+"user.overlay.metacopy") // tar has no empty records
	delete(pax, xattrRecord+"trusted.overlay.metacopy")
	tree := filepath.Join(t.TempDir(), "tree")
	in := foreign(t, tar.Header{Name: "d", Typeflag: dir, PAXRecords: pax, Format: tar.FormatPAX}, tar.Header{Name: "d/f", Typeflag: reg, PAXRecords: pax, Format: tar.FormatPAX})
	if err := Import(t.Context(), bytes.NewReader(in), tree, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d", "d/f"} {
		got, err := listXattrs(filepath.Join(tree, name))
		if err != nil {
			t.Fatal(err)
		}
		got = slices.DeleteFunc(got, func(n string) bool { return n == "security.selinux" }) // the host's, if any
		if want := []string{"security.capability", "user.mine"}; !slices.Equal(got, want) {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
	value := make([]byte, 64)
	if n, err := unix.Lgetxattr(filepath.Join(tree, "d/f"), "security.capability", value); err != nil || string(value[:n]) != netRaw {
		t.Errorf("its capability is %q, %v", value[:n], err)
	}
}

// No name or link of a layer reaches out of its tree.
func TestImportRefuses(t *testing.T) {
	lab.NeedRoot(t)
	for name, test := range map[string]struct {
		in   []tar.Header
		want string
	}{
		"up":                   {[]tar.Header{{Name: "a/../../x", Typeflag: reg}}, "not a path within the tree"},
		"absolute":             {[]tar.Header{{Name: "/etc/x", Typeflag: reg}}, "not a path within the tree"},
		"through a link":       {[]tar.Header{{Name: "a", Typeflag: sym, Linkname: "/etc"}, {Name: "a/x", Typeflag: reg}}, "not a directory"},
		"through a link up":    {[]tar.Header{{Name: "a", Typeflag: sym, Linkname: "../.."}, {Name: "a/b/x", Typeflag: reg}}, "path escapes from parent"},
		"a link out":           {[]tar.Header{{Name: "a", Typeflag: hard, Linkname: "../../etc/passwd"}}, "outside of the tree"},
		"a link by a link":     {[]tar.Header{{Name: "a", Typeflag: sym, Linkname: "/"}, {Name: "b", Typeflag: hard, Linkname: "a/etc/passwd"}}, "which exists neither earlier in the layer nor in the layers below"},
		"a link to nothing":    {[]tar.Header{{Name: "a", Typeflag: hard, Linkname: "b"}}, "which exists neither earlier in the layer nor in the layers below"},
		"a link to a tree":     {[]tar.Header{{Name: "d", Typeflag: dir}, {Name: "a", Typeflag: hard, Linkname: "d"}}, "a directory"},
		"a whiteout upwards":   {[]tar.Header{{Name: "d/.wh...", Typeflag: reg}}, "a whiteout that names no file"},
		"a whiteout of itself": {[]tar.Header{{Name: "d/.wh..", Typeflag: reg}}, "a whiteout that names no file"},
		"a name too long":      {[]tar.Header{{Name: strings.Repeat("a/", 2500), Typeflag: dir, Format: tar.FormatPAX}}, "longer than 4095 bytes"},
		"a user's id":          {[]tar.Header{{Name: "d/f", Typeflag: reg, Uid: 1000660000, Format: tar.FormatPAX}}, `"d/f": belongs to 1000660000:0, but a root file system has the ids 0 to 65535`},
		"a group's id":         {[]tar.Header{{Name: "d", Typeflag: dir, Gid: 65536}}, `"d": belongs to 0:65536`},
		"a link's owner":       {[]tar.Header{{Name: "l", Typeflag: sym, Linkname: "x", Uid: 65536}}, `"l": belongs to 65536:0`},
		"below a file":         {[]tar.Header{{Name: "f", Typeflag: reg}, {Name: "f/x", Typeflag: reg}}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			err := Import(t.Context(), bytes.NewReader(foreign(t, test.in...)), filepath.Join(home, "tree"), "")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if found, _ := os.ReadDir(home); len(found) != 1 {
				t.Errorf("files were created outside: %v", found)
			}
		})
	}
}

// Many links to one file are links, and take no space.
func TestImportLinks(t *testing.T) {
	lab.NeedRoot(t)
	in := []tar.Header{{Name: "a", Typeflag: reg}}
	for i := range 20_000 {
		in = append(in, tar.Header{Name: fmt.Sprintf("d/%d", i), Typeflag: hard, Linkname: "a"})
	}
	tree := filepath.Join(t.TempDir(), "tree")
	if err := Import(t.Context(), bytes.NewReader(foreign(t, in...)), tree, ""); err != nil {
		t.Fatal(err)
	}
	if n := len(entries(t, captured(t, tree))); n != 20_002 {
		t.Errorf("%d entries", n)
	}
}

// A hard link to a file of the layers below becomes a link to a copy in this layer, with
// all metadata. It cannot reach a hidden file.
func TestImportLinksBelow(t *testing.T) {
	lab.NeedRoot(t)
	lower := t.TempDir()
	write(t, lower, "usr/bin/busybox", "program")
	busybox := filepath.Join(lower, "usr/bin/busybox")
	if err := errors.Join(
		os.Symlink("usr/bin", filepath.Join(lower, "bin")), os.Symlink("busybox", filepath.Join(lower, "usr/bin/sh")), os.Symlink("/etc", filepath.Join(lower, "out")),
		os.Chown(busybox, 7, 9), os.Chmod(busybox, 0o755|os.ModeSetuid), os.Chtimes(busybox, epoch, epoch),
		unix.Setxattr(busybox, "user.mine", []byte("x"), 0), unix.Setxattr(filepath.Join(lower, "usr"), "user.dir", []byte("d"), 0),
	); err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string][]tar.Header{
		"link":          {{Name: "usr/bin/newhard", Typeflag: hard, Linkname: "usr/bin/busybox"}},
		"link by links": {{Name: "bin/newhard", Typeflag: hard, Linkname: "bin/busybox"}},
	} {
		t.Run(name, func(t *testing.T) {
			tree := filepath.Join(t.TempDir(), "tree")
			if err := Import(t.Context(), bytes.NewReader(foreign(t, in...)), tree, lower); err != nil {
				t.Fatal(err)
			}
			archive := captured(t, tree)
			want := []string{"5 0755 0:0 usr/", "5 0755 0:0 usr/bin/", "0 4755 7:9 usr/bin/busybox", "1 4755 7:9 usr/bin/newhard usr/bin/busybox"}
			if got := entries(t, archive); !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
			if said := headers(archive); !strings.Contains(said, "SCHILY.xattr.user.mine:x") || !strings.Contains(said, "SCHILY.xattr.user.dir:d") {
				t.Errorf("attributes are lost:\n%s", said)
			}
			if text, err := os.ReadFile(filepath.Join(tree, "usr/bin/newhard")); err != nil || string(text) != "program" {
				t.Errorf("the content is %q, %v", text, err)
			}
		})
	}
	link := tar.Header{Name: "x", Typeflag: hard, Linkname: "usr/bin/busybox"}
	for name, test := range map[string]struct {
		in   []tar.Header
		want string
	}{
		"a removed file":           {[]tar.Header{{Name: "usr/bin/.wh.busybox", Typeflag: reg}, link}, "which the layer removes"},
		"in a removed directory":   {[]tar.Header{{Name: ".wh.usr", Typeflag: reg}, link}, "which exists neither earlier in the layer"},
		"in an emptied directory":  {[]tar.Header{{Name: "usr/bin/.wh..wh..opq", Typeflag: reg}, link}, "which exists neither earlier in the layer"},
		"in a replaced directory":  {[]tar.Header{{Name: "usr", Typeflag: sym, Linkname: "/"}, link}, "which exists neither earlier in the layer"},
		"a symbolic link":          {[]tar.Header{{Name: "x", Typeflag: hard, Linkname: "bin/sh"}}, "not a regular file in the layers below"},
		"a directory":              {[]tar.Header{{Name: "x", Typeflag: hard, Linkname: "usr/bin"}}, "a directory"},
		"by a link out of a layer": {[]tar.Header{{Name: "x", Typeflag: hard, Linkname: "out/passwd"}}, "which exists neither earlier in the layer"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Import(t.Context(), bytes.NewReader(foreign(t, test.in...)), filepath.Join(t.TempDir(), "tree"), lower)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// Import reads the sparse files of GNU tar, and preserves the holes.
func TestImportSparse(t *testing.T) {
	lab.NeedRoot(t)
	lab.Need(t, "tar")
	from := t.TempDir()
	write(t, from, "holes", "begin")
	if err := os.Truncate(filepath.Join(from, "holes"), 8<<20); err != nil {
		t.Fatal(err)
	}
	want := captured(t, from)
	for _, format := range []string{"--format=gnu", "--format=pax --sparse-version=0.0", "--format=pax --sparse-version=0.1", "--format=pax --sparse-version=1.0"} {
		archive, err := exec.Command("tar", append(strings.Fields(format), "--sparse", "--numeric-owner", "-C", from, "-c", "holes")...).Output()
		if err != nil || len(archive) > 1<<20 {
			t.Fatalf("tar %s wrote %d bytes, %v", format, len(archive), err)
		}
		tree := filepath.Join(t.TempDir(), "tree")
		if err := Import(t.Context(), bytes.NewReader(archive), tree, ""); err != nil {
			t.Errorf("tar %s: %v", format, err)
			continue
		}
		if got := captured(t, tree); !bytes.Equal(got, want) {
			t.Errorf("tar %s: got\n%s\nwant\n%s", format, headers(got), headers(want))
		}
		fi, err := os.Stat(filepath.Join(tree, "holes"))
		if err != nil || fi.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20 {
			t.Errorf("tar %s: the holes are filled, %v", format, err)
		}
	}
}

func FuzzImport(f *testing.F) {
	f.Add(foreign(f, tar.Header{Name: "./d/f", Typeflag: reg}, tar.Header{Name: "d/.wh.x", Typeflag: reg}, tar.Header{Name: "l", Typeflag: sym, Linkname: ".."}, tar.Header{Name: "d", Typeflag: hard, Linkname: "l"}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		home := t.TempDir()
		tree := filepath.Join(home, "tree")
		err := Import(t.Context(), bytes.NewReader(archive), tree, "")
		if found, _ := os.ReadDir(home); len(found) != 1 {
			t.Errorf("files were created outside: %v", found)
		}
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := Capture(t.Context(), &b, tree, epoch, false); err != nil {
			return // names that only whiteouts may have
		}
		if _, err := unpack(t, b.Bytes()); err != nil {
			t.Errorf("Unpack refuses it: %v", err)
		}
	})
}
