// This file tests the import of sources, hostile ones too.

package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/bench/lab"
)

// listing returns the entries of a source, one a line.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		name, _ := filepath.Rel(dir, file)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(fi.Mode().String() + " " + name)
		switch d.Type() {
		case fs.ModeSymlink:
			to, _ := os.Readlink(file)
			b.WriteString(" -> " + to)
		case 0:
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			b.WriteString(" " + strings.TrimSpace(string(text)))
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// fill writes a source with how and returns its listing.
func fill(t *testing.T, how func(tr *Tree) error) (string, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "source")
	tr, err := NewTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	if err := how(tr); err != nil {
		return "", err
	}
	return listing(t, dir), nil
}

// A directory, an archive of it and a commit of it give the same source. The umask,
// git attributes and leftovers of a build do not matter.
func TestOneSourceFromEverywhere(t *testing.T) {
	lab.Need(t, "git", "tar")
	dir := tree(t, map[string]string{
		"Makefile": "VERSION = 6\n", "scripts/run.sh": "#!/bin/sh\n", "a/b/c.c": "c\n", "a.b/x": "x\n", ".gitignore": "*.o\n", "init/main.c": "$Format:%H$\n",
		".gitattributes": "*.c text eol=crlf export-subst\nx export-ignore\n",
	})
	for _, do := range []error{
		os.Chmod(filepath.Join(dir, "scripts/run.sh"), 0o775), os.Chmod(filepath.Join(dir, "a.b/x"), 0o600), os.Symlink("b/c.c", filepath.Join(dir, "a/link")),
	} {
		if do != nil {
			t.Fatal(do)
		}
	}
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=x", "-c", "user.email=x@example.invalid"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	git("init", "--quiet")
	git("add", ".")
	git("commit", "--quiet", "-m", "x")
	for _, leftover := range []string{"a/b/c.o", ".config", "include/generated/x.h"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, leftover)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, leftover), []byte("made"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	skip := func(name string) bool {
		return name == ".git" || strings.HasSuffix(name, ".o") || name == ".config" || name == "include/generated"
	}
	fromDir, err := fill(t, func(tr *Tree) error { return tr.FromDir(t.Context(), dir, skip) })
	if err != nil {
		t.Fatal(err)
	}
	if want := "-rwxr-xr-x scripts/run.sh #!/bin/sh\n"; !strings.Contains(fromDir, want) || strings.Count(fromDir, "\n") != 14 {
		t.Errorf("from the directory:\n%s", fromDir)
	}
	fromTar, err := fill(t, func(tr *Tree) error {
		archive, err := exec.Command("tar", "-C", filepath.Dir(dir), "--exclude=.git", "--exclude=*.o", "--exclude=.config", "--exclude=include", "-c", filepath.Base(dir)).Output()
		if err != nil {
			return err
		}
		return tr.FromTar(t.Context(), bytes.NewReader(archive))
	})
	if err != nil || fromTar != fromDir {
		t.Errorf("from an archive, %v:\n%s\nfrom the directory:\n%s", err, fromTar, fromDir)
	}
	fromGit, err := fill(t, func(tr *Tree) error {
		run := func(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			cmd.Dir, cmd.Stdin, cmd.Stdout = dir, stdin, stdout
			return cmd.Run()
		}
		return tr.FromGit(t.Context(), run, "HEAD")
	})
	if err != nil || fromGit != fromDir {
		t.Errorf("from git, %v:\n%s\nfrom the directory:\n%s", err, fromGit, fromDir)
	}
}

func TestHostileSource(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"up":        {{Name: "linux/../../x", Typeflag: tar.TypeReg}},
		"absolute":  {{Name: "/linux/../../etc/x", Typeflag: tar.TypeReg}, {Name: "linux/../../y", Typeflag: tar.TypeReg}},
		"device":    {{Name: "linux/null", Typeflag: tar.TypeChar}},
		"through":   {{Name: "linux/a", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}, {Name: "linux/a/b", Typeflag: tar.TypeReg}},
		"twice":     {{Name: "linux/a", Typeflag: tar.TypeReg}, {Name: "linux/a", Typeflag: tar.TypeReg}},
		"hard link": {{Name: "linux/a", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		if got, err := fill(t, func(tr *Tree) error { return tr.FromTar(t.Context(), &b) }); err == nil {
			t.Errorf("%s was accepted:\n%s", name, got)
		}
	}
}

func TestCheckSource(t *testing.T) {
	good := map[string]string{"Kbuild": "", "Kconfig": "", "Makefile": "", "arch/x86/Kconfig": "", "init/main.c": ""}
	if err := CheckSource(tree(t, good)); err != nil {
		t.Error(err)
	}
	delete(good, "Kconfig")
	if err := CheckSource(tree(t, good)); err == nil || !strings.Contains(err.Error(), "not the source of a Linux kernel: it has no Kconfig") {
		t.Errorf("%v", err)
	}
}

// A damaged archive is an error, even if all of its files were read.
func TestDecompress(t *testing.T) {
	lab.Need(t, "xz")
	cmd := exec.Command("xz", "-c")
	cmd.Stdin = strings.NewReader(strings.Repeat("content", 1000))
	packed, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	read := func(b []byte, compression string) (int, error) {
		n := 0
		err := Decompress(t.Context(), bytes.NewReader(b), compression, func(r io.Reader) error {
			all, err := io.ReadAll(r)
			n = len(all)
			return err
		})
		return n, err
	}
	if n, err := read(packed, "xz"); n != 7000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	damaged := bytes.Clone(packed)
	damaged[len(damaged)-15] ^= 1
	for name, b := range map[string][]byte{"cut off": packed[:len(packed)-20], "damaged": damaged, "not xz": []byte("<html>")} {
		if _, err := read(b, "xz"); err == nil || !strings.Contains(err.Error(), "xz") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := read(packed, "rar"); err == nil {
		t.Error("accepted an unknown compression")
	}
	if err := Decompress(t.Context(), bytes.NewReader(packed), "xz", func(io.Reader) error { return io.ErrShortBuffer }); err == nil {
		t.Error("lost the reader's error")
	}
}
