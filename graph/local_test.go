// This file tests the description of local files, and the stat cache.

package graph

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sampleTree returns a directory with one entry of each kind.
func sampleTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, do := range []func() error{
		func() error { return os.MkdirAll(filepath.Join(dir, "etc/strange \n\xff name"), 0o755) },
		func() error { return os.WriteFile(filepath.Join(dir, "etc/motd"), []byte("hello\n"), 0o644) },
		func() error { return os.WriteFile(filepath.Join(dir, "etc/issue"), []byte("hello\n"), 0o644) },
		func() error { return os.Link(filepath.Join(dir, "etc/motd"), filepath.Join(dir, "etc/again")) },
		func() error { return os.Symlink("/nowhere", filepath.Join(dir, "etc/link")) },
		func() error { return unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, path string) Local {
	t.Helper()
	l, err := ReadLocal("x", path, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A tree counts by everything that a machine would get from it.
func TestReadLocal(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(dir string) error
		matters bool
	}{
		"time":             {func(d string) error { return os.Chtimes(d+"/etc/motd", time.Unix(1, 0), time.Unix(1, 0)) }, false},
		"owner":            {func(d string) error { return os.Lchown(d+"/etc/motd", os.Getuid(), os.Getgid()) }, false},
		"same content":     {func(d string) error { return os.WriteFile(d+"/etc/issue", []byte("hello\n"), 0o644) }, false},
		"content":          {func(d string) error { return os.WriteFile(d+"/etc/motd", []byte("hellO\n"), 0o644) }, true},
		"mode":             {func(d string) error { return os.Chmod(d+"/etc/motd", 0o755) }, true},
		"setuid":           {func(d string) error { return os.Chmod(d+"/etc/motd", 0o644|os.ModeSetuid) }, true},
		"mode of the root": {func(d string) error { return os.Chmod(d, 0o700) }, true},
		"attribute":        {func(d string) error { return unix.Setxattr(d+"/etc/motd", "user.x", []byte("y"), 0) }, true},
		"another link":     {func(d string) error { os.Remove(d + "/etc/link"); return os.Symlink("/else", d+"/etc/link") }, true},
		"a copy for a hard link": {func(d string) error {
			os.Remove(d + "/etc/again")
			return os.WriteFile(d+"/etc/again", []byte("hello\n"), 0o644)
		}, true},
		"new name":      {func(d string) error { return os.Rename(d+"/etc/motd", d+"/etc/motd2") }, true},
		"new directory": {func(d string) error { return os.Mkdir(d+"/empty", 0o755) }, true},
		"less":          {func(d string) error { return os.Remove(d + "/fifo") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := sampleTree(t)
			before := read(t, dir)
			if err := test.change(dir); err != nil {
				t.Fatal(err)
			}
			if after := read(t, dir); (after.Digest != before.Digest) != test.matters {
				t.Errorf("matters: %v, want %v", !test.matters, test.matters)
			}
		})
	}
}

// The entries of a tree are lines of a key text, so no name can look like another.
func TestReadLocalEntries(t *testing.T) {
	l := read(t, sampleTree(t))
	if len(l.Entries) != 8 {
		t.Errorf("%d entries: %q", len(l.Entries), l.Entries)
	}
	text := strings.Join(l.Entries, "|")
	for _, want := range []string{
		`"etc/strange \n\xff name" mode 040755|`, "etc/motd mode 100644 link etc/again|", "etc/link mode 120777 to /nowhere|",
		"fifo mode 010600", "etc/again mode 100644 content 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03|",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, l.Entries)
		}
	}
	for file, words := range map[string]string{"/no/such/file": "no such file", "/dev/zero": "neither a file nor a directory"} {
		if _, err := ReadLocal("x", file, nil, nil); err == nil || !strings.Contains(err.Error(), file+": ") || !strings.Contains(err.Error(), words) {
			t.Errorf("%v", err)
		}
	}
}

// A link at the root is followed, because a step reads its target.
func TestReadLocalFollowsItsRoot(t *testing.T) {
	dir := sampleTree(t)
	link := filepath.Join(t.TempDir(), "link")
	for _, target := range []string{dir, dir + "/etc/issue"} {
		os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if a, b := read(t, target), read(t, link); a.Digest != b.Digest {
			t.Errorf("%s: %q by its name, %q by a link", target, a.Entries, b.Entries)
		}
	}
	before := read(t, link)
	os.Chmod(dir+"/etc/issue", 0o755)
	if read(t, link).Digest != before.Digest {
		t.Error("the mode of a file that is only read matters")
	}
	os.WriteFile(dir+"/etc/issue", []byte("else"), 0o644)
	if read(t, link).Digest == before.Digest {
		t.Error("the content behind a link does not matter")
	}
}

// A stat cache avoids reading a file, but never returns a wrong digest.
func TestStatCache(t *testing.T) {
	dir := t.TempDir()
	file, index := filepath.Join(dir, "big"), filepath.Join(dir, "memo")
	content := make([]byte, statMinSize)
	write := func(first byte) {
		t.Helper()
		content[0] = first
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sum := func(m *StatCache) string {
		t.Helper()
		l, err := ReadLocal("x", file, nil, m)
		if err != nil {
			t.Fatal(err)
		}
		return l.Digest
	}
	write(1)
	first := read(t, file).Digest

	// The file was just written: it may change again within the clock's tick.
	m := ReadStatCache(index, time.Now())
	if sum(m) != first || len(m.sums) != 0 {
		t.Errorf("%d remembered", len(m.sums))
	}
	m = ReadStatCache(index, time.Now().Add(time.Hour))
	if sum(m) != first || len(m.sums) != 1 {
		t.Errorf("%d remembered", len(m.sums))
	}
	if err := m.Write(index, filepath.Dir(index)); err != nil {
		t.Fatal(err)
	}
	// The stat cache is trusted: a wrong sum in it is used.
	b, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b))
	fields[5] = strings.Repeat("0", 64)
	if err := os.WriteFile(index, []byte(strings.Join(fields, " ")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m = ReadStatCache(index, time.Now().Add(time.Hour))
	if sum(m) == first {
		t.Error("the file was read although the stat cache knows it")
	}
	write(2)
	if got := sum(m); got == first || got != read(t, file).Digest {
		t.Error("a changed file has the old digest")
	}
	for i, damaged := range []string{"", "x", "1 2 3 4 5 6", string(b[:40]), fmt.Sprint(fields)} {
		if err := os.WriteFile(index, []byte(damaged), 0o644); err != nil {
			t.Fatal(err)
		}
		if m := ReadStatCache(index, time.Now()); len(m.sums) != 0 {
			t.Errorf("damage %d: %v", i, m.sums)
		}
	}
}

// A large directory is read only if its fingerprint has changed.
func TestStatCacheOfTrees(t *testing.T) {
	dir, index := t.TempDir(), filepath.Join(t.TempDir(), "memo")
	before := time.Now() // writing the files may take long
	for i := range statTree {
		name := filepath.Join(dir, fmt.Sprint("d", i%7), fmt.Sprint("f", i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(fmt.Sprint(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	skip := []string{"*.o", "d1/made"}
	digest := func(m *StatCache) string {
		t.Helper()
		l, err := ReadLocal("x", dir, skip, m)
		if err != nil {
			t.Fatal(err)
		}
		return l.Digest
	}
	first := digest(nil)
	if m := ReadStatCache(index, before); digest(m) != first || len(m.trees) != 0 {
		t.Errorf("a tree that was just written is remembered: %v", m.trees)
	}
	later := time.Now().Add(time.Hour)
	m := ReadStatCache(index, later)
	if digest(m) != first || len(m.trees) != 1 {
		t.Fatalf("%d trees are remembered", len(m.trees))
	}
	if err := m.Write(index, filepath.Dir(index)); err != nil {
		t.Fatal(err)
	}
	// The stat cache is trusted: a wrong digest in it is used.
	b, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	wrong := "sha256:" + strings.Repeat("0", 64)
	if err := os.WriteFile(index, []byte(strings.Replace(string(b), first, wrong, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"nothing":     func() error { return nil },
		"object":      func() error { return os.WriteFile(dir+"/d3/x.o", []byte("x"), 0o644) },
		"skipped dir": func() error { return os.MkdirAll(dir+"/d1/made/deep", 0o755) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if got := digest(ReadStatCache(index, later)); got != wrong {
			t.Errorf("%s: the tree was read", name)
		}
	}
	for name, change := range map[string]func() error{
		"content": func() error { return os.WriteFile(dir+"/d2/f2", []byte("3"), 0o644) },
		"mode":    func() error { return os.Chmod(dir+"/d3/f3", 0o755) },
		"name":    func() error { return os.Rename(dir+"/d4/f4", dir+"/d4/g4") },
		"less":    func() error { return os.Remove(dir + "/d5/f5") },
		"more":    func() error { return os.Mkdir(dir+"/d6/new", 0o755) },
	} {
		before := digest(nil)
		if err := change(); err != nil {
			t.Fatal(err)
		}
		after := digest(ReadStatCache(index, later))
		if after == wrong || after == before || after != digest(nil) {
			t.Errorf("%s: %s, then %s", name, before, after)
		}
	}
}

func TestSkipped(t *testing.T) {
	patterns := []string{".git", "*.o", ".tmp_*", "arch/*/generated", "include/config"}
	for name, want := range map[string]bool{
		".git": true, "a/.git": true, ".gitignore": false, "a/b.o": true, ".o": true, "a.o/b": false, "x/.tmp_1": true, "tmp_1": false,
		"arch/x86/generated": true, "arch/x86/y/generated": false, "b/arch/x86/generated": false, "include/config": true, "x/include/config": false,
	} {
		if got := Skipped(name, patterns); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
