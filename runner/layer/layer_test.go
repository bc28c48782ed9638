// This file tests capture, composition and unpacking, and holds the package's helpers.

package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/bench/lab"
	"meros/runner/hint"
)

var epoch = time.Unix(1_700_000_000, 0)

// entries returns type, mode, owner, name and link of each entry of an archive.
func entries(t *testing.T, archive []byte) []string {
	t.Helper()
	var all []string
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.After(epoch) {
			t.Errorf("%s has the time %v", h.Name, h.ModTime)
		}
		all = append(all, strings.TrimSpace(fmt.Sprintf("%c %04o %d:%d %s %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name, h.Linkname)))
	}
}

func captured(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Capture(t.Context(), &b, dir, epoch, false); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func unpack(t testing.TB, archive []byte) (string, error) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "layer")
	if err := os.WriteFile(file, archive, 0o644); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "tree"), Unpack(t.Context(), file, filepath.Join(dir, "tree"))
}

// Everything that a layer can hold survives the way into a layer and back.
func TestRoundTrip(t *testing.T) {
	lab.NeedRoot(t) // for owners and capabilities
	dir := t.TempDir()
	write(t, dir, "a/file", "text")
	write(t, dir, "a-b", "sorts between a and a/file by bytes")
	write(t, dir, "a/with space\nand \xff", "")
	if err := errors.Join(
		os.Link(filepath.Join(dir, "a/file"), filepath.Join(dir, "hard")),
		os.Symlink("/outside/../x", filepath.Join(dir, "sym")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o640),
		os.Chown(filepath.Join(dir, "a-b"), 12, 34),
		os.Lchown(filepath.Join(dir, "sym"), 56, 78),
		unix.Chmod(filepath.Join(dir, "a-b"), 0o4751),
		unix.Chmod(filepath.Join(dir, "a"), 0o1777),
		// cap_net_raw=ep, capabilities(7), in the second revision of the format
		unix.Setxattr(filepath.Join(dir, "a/file"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
		unix.Setxattr(filepath.Join(dir, "a-b"), "user.mine", []byte("x\x00y"), 0),
	); err != nil {
		t.Fatal(err)
	}
	l, err := listen(t, filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l()
	first := captured(t, dir)
	want := []string{
		"5 1777 0:0 a/", "0 0644 0:0 a/file", "0 0644 0:0 a/with space\nand \xff", "0 4751 12:34 a-b", "6 0640 0:0 fifo", "1 0644 0:0 hard a/file", "2 0777 56:78 sym /outside/../x",
	}
	if got := entries(t, first); !slices.Equal(got, want) {
		t.Errorf("%q\nwant\n%q", got, want)
	}
	tree, err := unpack(t, first)
	if err != nil {
		t.Fatal(err)
	}
	if second := captured(t, tree); !bytes.Equal(first, second) {
		t.Errorf("%q\nbecomes\n%q", entries(t, first), entries(t, second))
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(tree, "hard"), &st); err != nil || st.Nlink != 2 {
		t.Errorf("a hard link has %d names, %v", st.Nlink, err)
	}
}

func listen(t *testing.T, name string) (func(), error) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	// The path of a test may be too long for a socket.
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return func() { unix.Close(fd) }, unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(name))})
}

// The removals and replacements in the upper directory of an overlay become whiteouts.
func TestWhiteouts(t *testing.T) {
	lab.NeedRoot(t) // to make device nodes
	dir := t.TempDir()
	write(t, dir, "d/new", "")
	if err := errors.Join(
		unix.Mknod(filepath.Join(dir, "gone"), unix.S_IFCHR, 0),
		unix.Setxattr(filepath.Join(dir, "d"), opaqueXattr, []byte("y"), 0),
	); err != nil {
		t.Fatal(err)
	}
	archive := captured(t, dir)
	if got, want := entries(t, archive), []string{"5 0755 0:0 d/", "0 0644 0:0 d/.wh..wh..opq", "0 0644 0:0 d/new", "0 0644 0:0 .wh.gone"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	tree, err := unpack(t, archive)
	if err != nil {
		t.Fatal(err)
	}
	if again := captured(t, tree); !bytes.Equal(again, archive) {
		t.Errorf("it becomes %q", entries(t, again))
	}
	write(t, dir, ".wh.mine", "")
	if err := Capture(t.Context(), io.Discard, dir, epoch, false); err == nil || !strings.Contains(err.Error(), ".wh.mine: a name that begins with .wh.") || hint.Of(err) != "rename it" {
		t.Errorf("a file with a whiteout's name: %v, hint %q", err, hint.Of(err))
	}
}

// No archive writes outside the tree or through its own links.
func TestHostileArchive(t *testing.T) {
	outside := t.TempDir()
	for name, hs := range map[string][]tar.Header{
		"absolute":           {{Name: "/etc/x", Typeflag: tar.TypeReg}},
		"upwards":            {{Name: "../x", Typeflag: tar.TypeReg}},
		"upwards inside":     {{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "a/../../x", Typeflag: tar.TypeReg}},
		"through a link":     {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l/x", Typeflag: tar.TypeReg}},
		"hard link out":      {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../../../../../etc/passwd"}},
		"hard link by link":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "l/secret"}},
		"twice":              {{Name: "x", Typeflag: tar.TypeReg}, {Name: "x", Typeflag: tar.TypeReg}},
		"file over link":     {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: filepath.Join(outside, "x")}, {Name: "l", Typeflag: tar.TypeReg}},
		"no parent":          {{Name: "no/x", Typeflag: tar.TypeReg}},
		"itself":             {{Name: "./", Typeflag: tar.TypeDir}},
		"whiteout upwards":   {{Name: ".wh...", Typeflag: tar.TypeReg}},
		"whiteout of itself": {{Name: ".wh..", Typeflag: tar.TypeReg}},
		"device node":        {{Name: "d", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 254}},
		"unknown type":       {{Name: "x", Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, outside, "secret", "s")
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range hs {
				if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
					h.Mode = 0o644
				}
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
			}
			w.Close()
			if tree, err := unpack(t, b.Bytes()); err == nil {
				found, _ := filepath.Glob(filepath.Join(tree, "*"))
				t.Errorf("the archive is accepted: %q", found)
			}
			if found, _ := os.ReadDir(outside); len(found) != 1 {
				t.Errorf("files were written outside: %v", found)
			}
		})
	}
}

// CaptureSystem reports the things that a layer cannot hold.
func TestOmissions(t *testing.T) {
	lab.NeedRoot(t)
	dir := t.TempDir()
	write(t, dir, "a/x", "")
	write(t, dir, "a/y", "")
	const list = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	if err := errors.Join(
		unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, 0x103),
		unix.Setxattr(filepath.Join(dir, "a"), "system.posix_acl_default", []byte(list), 0), unix.Setxattr(filepath.Join(dir, "a/y"), "system.posix_acl_access", []byte(list), 0),
	); err != nil {
		t.Fatal(err)
	}
	got, err := CaptureSystem(t.Context(), io.Discard, dir, epoch)
	if want := []Omission{{"access lists", "/a", 2}, {"device nodes", "/null", 1}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

// A file that loses its access list gets a mode that admits nobody else.
func TestModeWithoutList(t *testing.T) {
	lab.NeedRoot(t)
	dir := t.TempDir()
	write(t, dir, "closed", "")
	write(t, dir, "open", "")
	write(t, dir, "plain", "")
	const user, group, mask, other = "\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x07\x00\xe8\x03\x00\x00", "\x04\x00%c\x00\xff\xff\xff\xff", "\x10\x00\x06\x00\xff\xff\xff\xff", "\x20\x00\x00\x00\xff\xff\xff\xff"
	for name, rights := range map[string]rune{"closed": 0, "open": 5} {
		list := "\x02\x00\x00\x00" + user + fmt.Sprintf(group, rights) + mask + other
		if err := unix.Setxattr(filepath.Join(dir, name), "system.posix_acl_access", []byte(list), 0); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode() != 0o660 {
			t.Fatalf("%v, %v", fi.Mode(), err)
		}
	}
	var b bytes.Buffer
	if _, err := CaptureSystem(t.Context(), &b, dir, epoch); err != nil {
		t.Fatal(err)
	}
	for r, want := tar.NewReader(&b), map[string]int64{"closed": 0o600, "open": 0o600, "plain": 0o644}; len(want) > 0; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%v, without %v", err, want)
		}
		if mode, ok := want[h.Name]; ok && h.Mode != mode {
			t.Errorf("%s has 0%o, want 0%o", h.Name, h.Mode, mode)
		}
		delete(want, h.Name)
	}
}

// A pipe in place of a directory does not block Describe.
func TestDescribeBelowAPipe(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "p"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if h, err := Describe(root, "p/x"); err == nil {
		t.Errorf("%+v", h)
	}
}

// Later trees override earlier ones and the system below.
func TestCompose(t *testing.T) {
	base, common, own := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, base, "usr/lib/x", "")
	write(t, base, "root/.profile", "")
	if err := errors.Join(os.Symlink("usr/lib", filepath.Join(base, "lib")), os.Chmod(filepath.Join(base, "root"), 0o700)); err != nil {
		t.Fatal(err)
	}
	write(t, common, "etc/motd", "common")
	write(t, common, "replaced/dir/file", "")
	write(t, own, "etc/motd", "own")
	write(t, own, "replaced/dir", "a file now")
	write(t, own, "lib/mine.so", "")
	write(t, own, "root/note", "")
	write(t, own, "srv/data/f", "")
	owners, err := ParseOwners(strings.NewReader("# whose\n/srv/data/ 33:33 2750\n\"/etc/motd\" root:7 0600\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	err = Compose(t.Context(), &b, []string{common, own}, ComposeOptions{Owners: owners, Epoch: epoch, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"5 0755 0:0 etc/", "0 0600 0:7 etc/motd", "5 0755 0:0 replaced/", "0 0644 0:0 replaced/dir",
		"5 0700 0:0 root/", "0 0644 0:0 root/note", "5 0755 0:0 srv/", "5 2750 33:33 srv/data/", "0 0644 33:33 srv/data/f",
		"5 0755 0:0 usr/", "5 0755 0:0 usr/lib/", "0 0644 0:0 usr/lib/mine.so",
	}
	got := entries(t, b.Bytes())
	if os.Geteuid() != 0 { // then the directories of the base do not belong to root
		for i := range got {
			got[i] = strings.ReplaceAll(got[i], fmt.Sprintf(" %d:%d ", os.Getuid(), os.Getgid()), " 0:0 ")
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestOwnersMistakes(t *testing.T) {
	for text, word := range map[string]string{
		"etc/x root":         "line 1: ", // no /
		"\n/x":               "line 2: ",
		"/x root:root 9":     "not a mode",
		"/x root:root 10000": "not a mode",
		"/x nobody:root":     "user \"nobody\"",
		"\"/x root:root":     "missing closing quote",
		"/x 70000:0":         "70000",
	} {
		if _, err := ParseOwners(strings.NewReader(text), nil); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, want %q", text, err, word)
		}
	}
}

// A hole stays a hole.
func TestSparse(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := NewSparseWriter(f)
	block := make([]byte, 1<<20)
	for i := range 64 {
		block[77] = byte(i / 63)
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Sync()); err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil || fi.Size() != 64<<20 {
		t.Fatalf("%v, %v", fi.Size(), err)
	}
	if used := fi.Sys().(*syscall.Stat_t).Blocks * 512; used > 1<<20 {
		t.Errorf("64 MiB with one byte take %d bytes", used)
	}
}

func FuzzUnpack(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755})
	w.WriteHeader(&tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1})
	w.Write([]byte("x"))
	w.WriteHeader(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."})
	w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, archive []byte) {
		tree, _ := unpack(t, archive)
		found, err := os.ReadDir(filepath.Dir(tree))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range found {
			if e.Name() != "layer" && e.Name() != "tree" {
				t.Errorf("%q was created outside", e.Name())
			}
		}
	})
}

func FuzzOwners(f *testing.F) {
	f.Add("/srv/ 33:33 2750\n\"/a b\" root:root\n# x\n")
	f.Fuzz(func(t *testing.T, text string) {
		owners, err := ParseOwners(strings.NewReader(text), nil)
		if err != nil {
			return
		}
		for p, o := range owners {
			if p == "" || p[0] != '/' || o.UID < 0 || o.GID < 0 || o.Mode > 0o7777 {
				t.Errorf("%q: %+v", p, o)
			}
		}
	})
}
