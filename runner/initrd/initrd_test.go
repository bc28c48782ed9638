// This file tests the archives of initrds, and how a machine's own files get into
// its root.

package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"meros/bench/lab"
)

// cpioList returns the entries that cpio(1) finds in an archive.
func cpioList(t *testing.T, archive []byte) []string {
	t.Helper()
	lab.Need(t, "cpio")
	cmd := exec.Command("cpio", "-itv", "--quiet", "--numeric-uid-gid")
	cmd.Stdin = bytes.NewReader(archive)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for l := range strings.Lines(string(out)) {
		f := strings.Fields(l)
		// mode links uid gid size month day year name
		lines = append(lines, strings.Join(append([]string{f[0], f[2], f[3]}, f[len(f)-1]), " "))
	}
	return lines
}

func TestCpio(t *testing.T) {
	files := []File{
		{Name: "etc/b", Mode: 0o600, UID: 5, GID: 6, Data: []byte("secret")},
		{Name: "init", Mode: 0o755, Data: []byte("x")},
		{Name: "etc/a/c", Mode: 0o644},
		{Name: "dev/console", Mode: 0o600, Char: [2]int{5, 1}},
		{Name: "sh", Link: "init"},
	}
	var first, second bytes.Buffer
	if err := WriteCpio(&first, files); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"drwxr-xr-x 0 0 dev", "crw------- 0 0 dev/console", "drwxr-xr-x 0 0 etc", "drwxr-xr-x 0 0 etc/a", "-rw-r--r-- 0 0 etc/a/c",
		"-rw------- 5 6 etc/b", "-rwxr-xr-x 0 0 init", "lrwxrwxrwx 0 0 init",
	}
	if got := cpioList(t, first.Bytes()); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	slices.Reverse(files)
	if err := WriteCpio(&second, files); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("the archive depends on the order of the files, %v", err)
	}
	if first.Len()%512 != 0 {
		t.Errorf("%d bytes: not a multiple of 512", first.Len())
	}
}

func TestBuild(t *testing.T) {
	modules := t.TempDir()
	for name, text := range map[string]string{"order": "b.ko\na.ko\n", "a.ko": "a", "b.ko": "b", "unused.ko": "u"} {
		if err := os.WriteFile(filepath.Join(modules, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	program := lab.Program(t)
	var b bytes.Buffer
	if err := Build(&b, program, modules, map[string]string{"lib/x.so": program}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"drwxr-xr-x 0 0 dev", "crw------- 0 0 dev/console", "-rwxr-xr-x 0 0 init", "drwxr-xr-x 0 0 lib", "-rwxr-xr-x 0 0 lib/x.so", "drwxr-xr-x 0 0 modules",
		"-rw-r--r-- 0 0 modules/a.ko", "-rw-r--r-- 0 0 modules/b.ko", "-rw-r--r-- 0 0 modules/order",
	}
	if got := cpioList(t, b.Bytes()); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, order := range []string{"../../etc/shadow", "", "missing.ko"} {
		if err := os.WriteFile(filepath.Join(modules, "order"), []byte(order+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Build(&b, program, modules, map[string]string{"lib/x.so": program}); err == nil {
			t.Errorf("accepted a module called %q", order)
		}
	}
}

// A program still runs without the parts that the kernel does not load.
func TestLoadable(t *testing.T) {
	program := lab.Program(t)
	b, err := loadable(program)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) > fi.Size()*3/4 {
		t.Errorf("%d of %d bytes are left", len(b), fi.Size())
	}
	short := filepath.Join(t.TempDir(), "meros")
	if err := os.WriteFile(short, b, 0o755); err != nil {
		t.Fatal(err)
	}
	want, err := exec.Command(program, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := exec.Command(short, "--version").CombinedOutput(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("it says %q, %v", got, err)
	}
}

// The guest's archive follows the shared one; nobody else can read it.
func TestWriteRun(t *testing.T) {
	dir := t.TempDir()
	var b bytes.Buffer
	if err := WriteCpio(&b, []File{{Name: "init", Mode: 0o755}}); err != nil {
		t.Fatal(err)
	}
	base, file := filepath.Join(dir, "base"), filepath.Join(dir, "run")
	if err := os.WriteFile(base, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteRun(file, base, []File{{Name: "etc/key", Mode: 0o600, Data: []byte("k")}}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil || !bytes.HasPrefix(got, b.Bytes()) {
		t.Fatalf("the file does not begin with the shared archive, %v", err)
	}
	if l := cpioList(t, got[b.Len():]); !slices.Contains(l, "-rw------- 0 0 meros-run/etc/key") {
		t.Errorf("%q", l)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := WriteRun(file, base, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("an existing file: %v", err)
	}
}

func TestCmdline(t *testing.T) {
	got := parseCmdline("console=ttyS0 root=/dev/vda2 quiet root=/dev/vda3 init=/bin/sh\n")
	if fmt.Sprint(got) != "map[console:ttyS0 init:/bin/sh root:/dev/vda3 rootfstype:ext4]" {
		t.Errorf("%v", got)
	}
}

// Links in place of a guest's files are replaced, not followed.
func TestCopyRun(t *testing.T) {
	lab.NeedRoot(t) // for owners
	from, to, outside := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(from, "etc/ssh"), 0o755),
		os.WriteFile(filepath.Join(from, "etc/ssh/key"), []byte("new"), 0o600),
		os.WriteFile(filepath.Join(from, "etc/machine-id"), []byte("id"), 0o444),
		os.Chown(filepath.Join(from, "etc/ssh/key"), 3, 4),
		os.MkdirAll(filepath.Join(to, "etc"), 0o711),
		os.WriteFile(outside, []byte("x"), 0o644),
		os.Symlink(outside, filepath.Join(to, "etc/machine-id")),
	); err != nil {
		t.Fatal(err)
	}
	if err := copyRun(from, to); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(outside); string(b) != "x" {
		t.Errorf("a file outside became %q", b)
	}
	if b, _ := os.ReadFile(filepath.Join(to, "etc/machine-id")); string(b) != "id" {
		t.Errorf("the id is %q", b)
	}
	if fi, err := os.Stat(filepath.Join(to, "etc/ssh/key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if fi, err := os.Stat(filepath.Join(to, "etc")); err != nil || fi.Mode().Perm() != 0o711 {
		t.Errorf("an existing directory: %v, %v", fi, err)
	}
	if err := copyRun(filepath.Join(from, "nothing"), to); err != nil {
		t.Error(err)
	}
}
