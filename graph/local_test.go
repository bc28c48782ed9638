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

// sampleTree has one of each kind of entry.
func sampleTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, do := range []func() error{
		func() error { return os.MkdirAll(filepath.Join(dir, "etc/odd \n\xff name"), 0o755) },
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
	l, err := ReadLocal("x", path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What counts of a tree is what a machine would get of it.
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

// The lines of a tree are lines of a key text: no name can look like another.
func TestReadLocalEntries(t *testing.T) {
	l := read(t, sampleTree(t))
	if len(l.Entries) != 8 {
		t.Errorf("%d entries: %q", len(l.Entries), l.Entries)
	}
	text := strings.Join(l.Entries, "|")
	for _, want := range []string{
		`"etc/odd \n\xff name" mode 040755|`, "etc/motd mode 100644 link etc/again|", "etc/link mode 120777 to /nowhere|",
		"fifo mode 010600", "etc/again mode 100644 content 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03|",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, l.Entries)
		}
	}
	if _, err := ReadLocal("x", "/no/such/file", nil); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("%v", err)
	}
}

// A link at the top stands for what it leads to: that is what a step reads.
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

// A memo spares the reading, and never at the price of a wrong digest.
func TestMemo(t *testing.T) {
	dir := t.TempDir()
	file, index := filepath.Join(dir, "big"), filepath.Join(dir, "memo")
	content := make([]byte, memoMinSize)
	write := func(first byte) {
		t.Helper()
		content[0] = first
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sum := func(m *Memo) string {
		t.Helper()
		l, err := ReadLocal("x", file, m)
		if err != nil {
			t.Fatal(err)
		}
		return l.Digest
	}
	write(1)
	first := read(t, file).Digest

	// Written a moment ago: it may change again within the clock's tick.
	m := ReadMemo(index, time.Now())
	if sum(m) != first || len(m.sums) != 0 {
		t.Errorf("%d remembered", len(m.sums))
	}
	m = ReadMemo(index, time.Now().Add(time.Hour))
	if sum(m) != first || len(m.sums) != 1 {
		t.Errorf("%d remembered", len(m.sums))
	}
	if err := m.Write(index); err != nil {
		t.Fatal(err)
	}
	// It is believed: a wrong sum in it shows.
	b, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b))
	fields[5] = strings.Repeat("0", 64)
	if err := os.WriteFile(index, []byte(strings.Join(fields, " ")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m = ReadMemo(index, time.Now().Add(time.Hour))
	if sum(m) == first {
		t.Error("the file was read although the memo knows it")
	}
	write(2)
	if got := sum(m); got == first || got != read(t, file).Digest {
		t.Error("a changed file has the old digest")
	}
	for i, damaged := range []string{"", "x", "1 2 3 4 5 6", string(b[:40]), fmt.Sprint(fields)} {
		if err := os.WriteFile(index, []byte(damaged), 0o644); err != nil {
			t.Fatal(err)
		}
		if m := ReadMemo(index, time.Now()); len(m.sums) != 0 {
			t.Errorf("damage %d: %v", i, m.sums)
		}
	}
}
