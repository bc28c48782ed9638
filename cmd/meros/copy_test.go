// This file tests the script that unpacks pushed files in a machine, by running
// it on the host.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/bench/lab"
)

// TestUnpack runs the machine's unpack script on the host, with unusual names and
// with a stream that ends early.
func TestUnpack(t *testing.T) {
	lab.Need(t, "tar", "sh")
	home, src := t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	const unusual = "a b\n'ü\xff$x"
	write(src, "tree/"+unusual, "new")
	write(src, "tree/.hidden/f", "h")
	write(src, ".top", "t")
	write(home, "mos-shared/tree/"+unusual, "old")
	write(home, "mos-shared/tree/stays", "s")
	p, err := newPush([]string{filepath.Join(src, "tree"), filepath.Join(src, ".top")})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.markIn(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	unpackHere := func(stream []byte) (string, error) {
		cmd := exec.Command("sh", "-c", "DEST=mos-shared\n"+unpack)
		cmd.Dir = home
		cmd.Stdin = io.MultiReader(strings.NewReader("\n"), bytes.NewReader(stream)) // no port
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	var stream bytes.Buffer
	if err := p.send(t.Context(), &stream, true, &copied{ui: newUI(os.Stdout, os.Stderr, "plain", false), began: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if out, err := unpackHere(stream.Bytes()[:stream.Len()/2]); err == nil {
		t.Errorf("the script accepts half of the stream: %s", out)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(home, "mos-shared", name))
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	if got := read("tree/" + unusual); got != "old" {
		t.Errorf("after half of the stream the file has %q", got)
	}
	if out, err := unpackHere(stream.Bytes()); err != nil || out != "gnu\n" && out != "gnu \n" {
		t.Fatalf("unpack: %v: %s", err, out)
	}
	for name, want := range map[string]string{"tree/" + unusual: "new", "tree/.hidden/f": "h", ".top": "t", "tree/stays": "s"} {
		if got := read(name); got != want {
			t.Errorf("%q has %q, want %q", name, got, want)
		}
	}
	if fi, err := os.Stat(filepath.Join(home, "mos-shared/.top")); err != nil || fi.Mode() != 0o640 {
		t.Errorf("the file .top is %v, error %v", fi, err)
	}
	if found, _ := filepath.Glob(filepath.Join(home, "mos-shared/.meros*")); len(found) > 0 {
		t.Errorf("left behind: %q", found)
	}
	for _, bad := range [][]string{{"/"}, {filepath.Join(src, "tree"), filepath.Join(home, "mos-shared/tree")}, {filepath.Join(src, "nothing")}} {
		if _, err := newPush(bad); err == nil {
			t.Errorf("newPush accepts %q", bad)
		}
	}
}

// TestUnpackMounted checks that unpacking works across a mount below the
// destination, where hard links fail.
func TestUnpackMounted(t *testing.T) {
	lab.Need(t, "tar", "unshare", "mount")
	src := filepath.Join(t.TempDir(), "site")
	for _, name := range []string{"plain/f", "mounted/deep/a b\n'ü\xff$x", "mounted/g"} {
		file := filepath.Join(src, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("new"), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("g", filepath.Join(src, "mounted/link")), os.Symlink("f", filepath.Join(src, "plain/link"))); err != nil {
		t.Fatal(err)
	}
	p, err := newPush([]string{src})
	if err == nil {
		err = p.markIn(t.TempDir())
	}
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if err := p.send(t.Context(), &stream, true, &copied{ui: newUI(os.Stdout, os.Stderr, "plain", false), began: time.Now()}); err != nil {
		t.Fatal(err)
	}
	const mount = `mkdir -p srv/site/mounted && mount -t tmpfs none srv/site/mounted && echo longer >srv/site/mounted/g && ln -s plain srv/site/mounted/link && %s
`
	const look = `
cd "$HOME"/srv/site && find . -name '.meros*' && cat plain/f plain/link mounted/deep/* mounted/g mounted/link && stat -c %a mounted/g && readlink mounted/link && test plain/f -ef plain/link`
	for name, test := range map[string]struct{ prepare, want string }{
		"mounted":     {"true", "newnewnewnewnew640\ng\n"},
		"a directory": {"mkdir -p srv/site/mounted/deep srv/site/mounted/g.d && rm srv/site/mounted/g && mkdir srv/site/mounted/g", "./site/mounted/g is a directory\n"},
	} {
		for _, tools := range []string{"", "busybox"} {
			t.Run(strings.TrimSpace(name+" "+tools), func(t *testing.T) {
				home := t.TempDir()
				env := append(os.Environ(), "HOME="+home)
				if tools != "" {
					env = append(env, "PATH="+busyboxTools(t))
				}
				cmd := exec.Command("unshare", "--mount", "--map-root-user", "sh", "-c", fmt.Sprintf(mount, test.prepare)+"DEST=srv\n"+unpack+look)
				cmd.Dir, cmd.Env = home, env
				cmd.Stdin = io.MultiReader(strings.NewReader("\n"), bytes.NewReader(stream.Bytes()))
				out, err := cmd.CombinedOutput()
				_, got, _ := strings.Cut(string(out), "\n") // the first line is the kind of tar
				if got != test.want || (err == nil) != (name == "mounted") {
					t.Errorf("unpack printed %q, error %v, want %q", got, err, test.want)
				}
			})
		}
	}
}

// busyboxTools returns a directory with the tools of busybox, which Alpine uses.
func busyboxTools(t *testing.T) string {
	program, err := exec.LookPath("busybox")
	if err != nil {
		lab.Skip(t, "needs the program busybox")
	}
	dir := t.TempDir()
	if out, err := exec.Command(program, "--install", "-s", dir).CombinedOutput(); err != nil {
		t.Fatalf("busybox: %v: %s", err, out)
	}
	return dir
}
