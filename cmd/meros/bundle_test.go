// This file tests the export and import of bundles, including hostile ones.

package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"meros/bench/lab"
	"meros/cache"
	"meros/constellations"
	"meros/graph"
	"meros/runner/hint"
)

// bundle returns a bundle with a head and these members. The Uname of a member is
// its content.
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
		content := h.Uname
		h.Uname, h.Size, h.Mode = "", int64(len(content)), cmp.Or(h.Mode, 0o644)
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
	i := &bundleImport{store: store, home: t.TempDir(), scratch: scratch.Dir()}
	if err := os.WriteFile(filepath.Join(i.home, ".meros-import-killed"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err = i.read(t.Context(), file)
	if err == nil {
		err = i.place(func() { t.Error("the constellation exists already") })
	}
	return i, errors.Join(err, i.close())
}

const hexOfA = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" // SHA-256 of "a"

// TestHostileBundle checks that an import rejects unsafe members and leaves
// nothing behind.
func TestHostileBundle(t *testing.T) {
	const lab = "constellations/lab/"
	for name, test := range map[string]struct {
		members []tar.Header
		want    string // the error; "" if the import succeeds
	}{
		"an artifact":                {[]tar.Header{{Name: "cas/" + hexOfA, Uname: "a"}}, ""},
		"content of another digest":  {[]tar.Header{{Name: "cas/" + hexOfA, Uname: "b"}}, "its content has another digest"},
		"a path out of cas":          {[]tar.Header{{Name: "cas/../../x", Uname: "a"}}, "neither to the cache nor to the constellation"},
		"a short digest":             {[]tar.Header{{Name: "cas/ca97", Uname: "a"}}, "its name is not a digest"},
		"key text of another action": {[]tar.Header{{Name: "actions/" + hexOfA + ".key", Uname: "b"}}, "the key text of another action"},
		"an entry without a key":     {[]tar.Header{{Name: "actions/" + hexOfA, Uname: "{}"}}, "key text of ca978112ca1b"},
		"a damaged entry":            {[]tar.Header{{Name: "actions/" + hexOfA + ".key", Uname: "a"}, {Name: "actions/" + hexOfA, Uname: `{"entry":{},"sum":"sha256:00"}`}}, "is damaged"},
		"files of the constellation": {[]tar.Header{{Name: lab + "m", Typeflag: tar.TypeDir}, {Name: lab + "manifest.yml", Uname: "x"}}, ""},
		"a setuid file":              {[]tar.Header{{Name: lab + "x", Mode: 0o4755, Uname: "x"}}, "would run as another user"},
		"a setgid file":              {[]tar.Header{{Name: lab + "x", Mode: 0o2755, Uname: "x"}}, "would run as another user"},
		"a path above":               {[]tar.Header{{Name: lab + "../../x", Uname: "x"}}, "neither to the cache nor to the constellation"},
		"an absolute path":           {[]tar.Header{{Name: "/etc/x", Uname: "x"}}, "neither to the cache nor to the constellation"},
		"another constellation":      {[]tar.Header{{Name: "constellations/lab2/x", Uname: "x"}}, "neither to the cache nor to the constellation"},
		"a device":                   {[]tar.Header{{Name: lab + "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}, "neither a file nor a directory nor a link"},
		"a hard link":                {[]tar.Header{{Name: lab + "x", Uname: "x"}, {Name: lab + "y", Typeflag: tar.TypeLink, Linkname: lab + "x"}}, ""},
		"a hard link to the host":    {[]tar.Header{{Name: lab + "x", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}}, "neither to the cache nor to the constellation"},
		"a hard link to nothing":     {[]tar.Header{{Name: lab + "x", Typeflag: tar.TypeLink, Linkname: lab + "y"}}, "which is not a file of the constellation"},
		"a hard link to a link":      {[]tar.Header{{Name: lab + "y", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, {Name: lab + "x", Typeflag: tar.TypeLink, Linkname: lab + "y"}}, "which is not a file of the constellation"},
		"a hard link through a link": {[]tar.Header{{Name: lab + "y", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: lab + "x", Typeflag: tar.TypeLink, Linkname: lab + "y/passwd"}}, "which is not a file of the constellation"},
		"a file over a hard link": {[]tar.Header{{Name: lab + "x", Uname: "x"}, {Name: lab + "y", Typeflag: tar.TypeLink, Linkname: lab + "x"}, {Name: lab + "y", Uname: "z"}},
			"file exists"},
		"an attribute of a user":      {[]tar.Header{{Name: lab + "x", Uname: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}}, ""},
		"a capability":                {[]tar.Header{{Name: lab + "x", Uname: "x", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "b"}}}, "which is not a user's"},
		"an attribute of a directory": {[]tar.Header{{Name: lab + "x", Typeflag: tar.TypeDir, PAXRecords: map[string]string{"SCHILY.xattr.trusted.a": "b"}}}, "which is not a user's"},
		"too many attributes of directories": {slices.Repeat([]tar.Header{{Name: lab + "x", Typeflag: tar.TypeDir, PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("b", 1_000_000)}}}, 70),
			"the names and attributes of directories are too large"},
		"a file through a link": {[]tar.Header{{Name: lab + "d", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}, {Name: lab + "d/x", Uname: "x"}}, "path escapes"},
		"a link to the host":    {[]tar.Header{{Name: lab + "hooks", Typeflag: tar.TypeSymlink, Linkname: "/etc"}}, "is a link out of the constellation, or to no file"},
		"a link to nothing":     {[]tar.Header{{Name: lab + "hooks", Typeflag: tar.TypeSymlink, Linkname: "x"}}, "is a link out of the constellation, or to no file"},
		"a link within":         {[]tar.Header{{Name: lab + "x", Uname: "x"}, {Name: lab + "y", Typeflag: tar.TypeSymlink, Linkname: "x"}}, ""},
		"a link in a machine's files": {[]tar.Header{
			{Name: lab + "m/includes.chroot", Typeflag: tar.TypeDir}, {Name: lab + "m/includes.chroot/x", Typeflag: tar.TypeSymlink, Linkname: "/etc"}}, ""},
		"a link through a machine's link": {[]tar.Header{
			{Name: lab + "m/includes.chroot", Typeflag: tar.TypeDir}, {Name: lab + "m/includes.chroot/x", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
			{Name: lab + "m/hooks", Typeflag: tar.TypeSymlink, Linkname: "includes.chroot/x"}}, "is a link out of the constellation, or to no file"},
	} {
		t.Run(name, func(t *testing.T) {
			i, err := importBundle(t, bundle(t, test.members...))
			if left, _ := filepath.Glob(filepath.Join(i.home, "*")); len(left) > 0 && test.want != "" {
				t.Errorf("left behind: %q", left)
			}
			if left, _ := filepath.Glob(filepath.Join(i.home, ".*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got the error %v, want %q", err, test.want)
			}
		})
	}
}

// TestBundleCarriesModes checks that imported files have the modes of the
// originals, whatever the umask is. Modes are part of the keys.
func TestBundleCarriesModes(t *testing.T) {
	modes := map[string]os.FileMode{
		".": 0o775 | os.ModeDir, "m": 0o775 | os.ModeDir | os.ModeSetgid, "m/ro": 0o555 | os.ModeDir, "m/ro/open": 0o666, "m/key": 0o600, "m/secret": 0o440, "m/tmp": 0o777 | os.ModeDir | os.ModeSticky,
	}
	dir := t.TempDir()
	var files []string
	for name, mode := range modes {
		if mode.IsDir() {
			if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		files = append(files, name)
	}
	slices.Sort(files)
	for _, name := range slices.Backward(files) {
		file, mode := filepath.Join(dir, name), modes[name]
		if !mode.IsDir() {
			if err := os.WriteFile(file, []byte(name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "m/ro"), 0o755) })
	link := filepath.Join(t.TempDir(), "lab")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	b := exported(t, link)
	defer syscall.Umask(syscall.Umask(0o077))
	i, err := importBundle(t, b)
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range modes {
		fi, err := os.Lstat(filepath.Join(i.target(), name))
		if err != nil || fi.Mode() != mode {
			t.Errorf("%s has the mode %v, error %v, want %v", name, fi.Mode(), err, mode)
		}
	}
	os.Chmod(filepath.Join(i.target(), "m/ro"), 0o755)
}

// TestBundleCarriesTrees checks that an import restores everything that is part
// of the keys: hard links and the attributes of files and directories.
func TestBundleCarriesTrees(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.MkdirAll(at("m/includes.chroot/d"), 0o755), os.WriteFile(at("m/includes.chroot/a"), []byte("a"), 0o644),
		os.Link(at("m/includes.chroot/a"), at("m/includes.chroot/d/b")), os.MkdirAll(at("n/includes.chroot"), 0o755),
		os.Link(at("m/includes.chroot/a"), at("n/includes.chroot/c")), os.Symlink("d/b", at("m/includes.chroot/l")),
		os.WriteFile(at("m/includes.chroot/ro"), nil, 0o444),
		unix.Setxattr(at("m/includes.chroot/a"), "user.a", []byte("1"), 0), unix.Setxattr(at("m/includes.chroot/ro"), "user.ro", []byte{0, 2}, 0),
		unix.Setxattr(at("m/includes.chroot/d"), "user.d", []byte("3"), 0), os.Chmod(at("m/includes.chroot/d"), 0o555))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(at("m/includes.chroot/d"), 0o755) })
	i, err := importBundle(t, exported(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(i.target(), "m/includes.chroot/d"), 0o755) })
	want, err := graph.ReadLocal("x", dir, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(want.Entries, "\n"); strings.Count(text, " link ") != 2 || strings.Count(text, " xattr ") != 3 {
		t.Fatalf("the tree is\n%s", text)
	}
	got, err := graph.ReadLocal("x", i.target(), nil, nil)
	// The first entry is the directory itself, whose mode the test does not set.
	if err != nil || !slices.Equal(got.Entries[1:], want.Entries[1:]) {
		t.Errorf("error %v, the imported tree is\n%s\nwant\n%s", err, strings.Join(got.Entries, "\n"), strings.Join(want.Entries, "\n"))
	}
	if err := unix.Setxattr(at("m/includes.chroot/a"), "security.capability", capability, 0); err != nil {
		lab.Skip(t, "cannot set capabilities here: %v", err)
	}
	if _, err := newBundleDir(&preview{manifest: &constellations.Manifest{Name: "lab", Dir: dir}}); !strings.Contains(hint.Of(err), "setcap in a hook") {
		t.Errorf("a file with capabilities: %v", err)
	}
}

// capability is the attribute for cap_net_raw+ep, see linux/capability.h.
var capability = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// exported returns a bundle that has only a constellation's directory.
func exported(t *testing.T, dir string) []byte {
	t.Helper()
	d, err := newBundleDir(&preview{manifest: &constellations.Manifest{Name: "lab", Dir: dir}})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	err = writeMember(w, bundleFile, 0o644, []byte(`{"format":1,"constellation":"lab"}`))
	if err = errors.Join(err, d.write(w), w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestBundleRefuses checks that an export rejects files that an import would miss
// or reject.
func TestBundleRefuses(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(outside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		file, to string
		mode     os.FileMode
		named    string
		want     string
	}{
		"a link out":                  {file: "m/hooks", to: "/etc", want: `"m/hooks" is a link out of the constellation, or to no file`},
		"a link up":                   {file: "m/hooks", to: "../../x", want: "relative link within"},
		"a link within":               {file: "m/hooks", to: "../manifest.yml"},
		"a link in a machine's files": {file: "m/includes.chroot/x", to: "/etc"},
		"a setuid file":               {file: "m/includes.chroot/x", mode: 0o755 | os.ModeSetuid, want: "in the file owners"},
		"a file elsewhere":            {file: "x", mode: 0o644, named: outside, want: outside + "\nhint: copy them to "},
		"a file through a link":       {file: "m/includes.chroot/x", to: outside, named: "m/includes.chroot/x", want: "x\nhint: copy them to "},
		"a file of the constellation": {file: "x", mode: 0o644, named: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, test.file)
			err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(filepath.Join(dir, "manifest.yml"), nil, 0o644))
			if test.to != "" {
				err = errors.Join(err, os.Symlink(test.to, file))
			} else {
				err = errors.Join(err, os.WriteFile(file, nil, 0o644), os.Chmod(file, test.mode))
			}
			if err != nil {
				t.Fatal(err)
			}
			f := &preview{manifest: &constellations.Manifest{Name: "lab", Dir: dir}}
			if filepath.IsAbs(test.named) {
				f.named = []string{test.named}
			} else if test.named != "" {
				f.named = []string{filepath.Join(dir, test.named)}
			}
			if _, err = newBundleDir(f); test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error()+"\nhint: "+hint.Of(err), test.want)) {
				t.Errorf("got the error %v, hint %q, want %q", err, hint.Of(err), test.want)
			}
		})
	}
}

// FuzzBundle imports arbitrary bytes.
func FuzzBundle(f *testing.F) {
	f.Add(bundle(f, tar.Header{Name: "cas/" + hexOfA, Uname: "a"}, tar.Header{Name: "constellations/lab/manifest.yml", Uname: "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		importBundle(t, b)
	})
}
