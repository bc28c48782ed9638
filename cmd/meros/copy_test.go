package main

import (
	"archive/tar"
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

// archive is a tar archive of the headers; regular files hold their own names.
func archive(t *testing.T, headers ...tar.Header) []byte {
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

// A machine that sends what leads elsewhere writes nothing there.
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
			err := newArrival(dir, []string{"x/d", "/h/", "f", "b", "p"}, func(string) {}).receive(t.Context(), bytes.NewReader(archive(t, test.headers...)))
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

// What arrives is changed by nobody else and runs as nobody else, and has any
// name if the names were not known.
func TestReceiveModes(t *testing.T) {
	dir := t.TempDir()
	sent := archive(t, tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0}, tar.Header{Typeflag: tar.TypeReg, Name: "./s", Mode: 0o6777},
		tar.Header{Typeflag: tar.TypeReg, Name: "./k", Mode: 0o600}, tar.Header{Typeflag: tar.TypeReg, Name: "./r", Mode: 0o754},
		tar.Header{Typeflag: tar.TypeDir, Name: "./d/", Mode: 0o3777})
	if err := newArrival(dir, []string{"x", "logs/."}, nil).receive(t.Context(), bytes.NewReader(sent)); err == nil {
		t.Error("what was not asked for arrives")
	}
	if err := newArrival(dir, []string{"x", ".."}, nil).receive(t.Context(), bytes.NewReader(sent)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"s": 0o755, "k": 0o600, "r": 0o754, "d": 0o755 | os.ModeDir} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, fi, err, want)
		}
	}
}

// An archive that ends early leaves the old file as it was.
func TestReceiveTruncated(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, strings.Repeat("x", 90)), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	whole := archive(t, tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("x", 90), Mode: 0o644})
	if err := newArrival(dir, []string{strings.Repeat("x", 90)}, nil).receive(t.Context(), bytes.NewReader(whole[:512+40])); err == nil {
		t.Error("nobody saw that the end is missing")
	}
	found, err := os.ReadDir(dir)
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, found[0].Name())); err != nil || string(b) != "old" {
		t.Errorf("%q, %v", b, err)
	}
}

// The script of the machine's side, run here.
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
	const odd = "a b\n'ü\xff$x"
	write(src, "tree/"+odd, "new")
	write(src, "tree/.hidden/f", "h")
	write(src, ".top", "t")
	write(home, "mos-shared/tree/"+odd, "old")
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
		t.Errorf("half of it is taken for all: %s", out)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(home, "mos-shared", name))
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	if got := read("tree/" + odd); got != "old" {
		t.Errorf("after half of it the file is %q", got)
	}
	if out, err := unpackHere(stream.Bytes()); err != nil || out != "gnu\n" && out != "gnu \n" {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]string{"tree/" + odd: "new", "tree/.hidden/f": "h", ".top": "t", "tree/stays": "s"} {
		if got := read(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
	if fi, err := os.Stat(filepath.Join(home, "mos-shared/.top")); err != nil || fi.Mode() != 0o640 {
		t.Errorf("%v, %v", fi, err)
	}
	if found, _ := filepath.Glob(filepath.Join(home, "mos-shared/.meros*")); len(found) > 0 {
		t.Errorf("left behind: %q", found)
	}
	for _, bad := range [][]string{{"/"}, {filepath.Join(src, "tree"), filepath.Join(home, "mos-shared/tree")}, {filepath.Join(src, "nothing")}} {
		if _, err := newPush(bad); err == nil {
			t.Errorf("%q can be pushed", bad)
		}
	}
}

// Where something is mounted below the destination nothing can be linked.
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
				_, got, _ := strings.Cut(string(out), "\n") // what tar it has
				if got != test.want || (err == nil) != (name == "mounted") {
					t.Errorf("%q, %v, want %q", got, err, test.want)
				}
			})
		}
	}
}

// busyboxTools is a directory with the tools of busybox, which Alpine has.
func busyboxTools(t *testing.T) string {
	program, err := exec.LookPath("busybox")
	if err != nil {
		lab.Skip(t, "there is no busybox")
	}
	dir := t.TempDir()
	if out, err := exec.Command(program, "--install", "-s", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}
