// This file tests images of trees, and holds the helpers of the package's tests.

package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/bench/lab"
)

var epoch = time.Unix(1_700_000_000, 0)

// need skips a test if a program is missing. In CI, the test fails instead.
func need(t *testing.T, programs ...string) {
	t.Helper()
	lab.Need(t, programs...)
	lab.NeedRoot(t) // files with several owners
}

// sampleTree makes a small root file system, its entries in the given order.
func sampleTree(t *testing.T, reverse bool) string {
	t.Helper()
	dir := t.TempDir()
	type entry struct{ path, content string }
	var es []entry
	for i := range 300 {
		es = append(es, entry{fmt.Sprintf("usr/share/doc/p%03d/copyright", i), strings.Repeat("text ", i*10)})
	}
	es = append(es, entry{"etc/motd", "hello\n"}, entry{"etc/passwd", "root:x:0:0::/root:/bin/sh\n"}, entry{"usr/bin/tool", "#!/bin/sh\n"})
	if reverse {
		slices.Reverse(es)
	}
	for _, e := range es {
		f := filepath.Join(dir, e.path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o755), os.WriteFile(f, []byte(e.content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	check(t, os.Link(filepath.Join(dir, "usr/bin/tool"), filepath.Join(dir, "usr/bin/tool2")))
	check(t, os.Symlink("usr/bin", filepath.Join(dir, "bin")))
	check(t, os.Chown(filepath.Join(dir, "etc/motd"), 33, 70000))
	check(t, os.Chmod(filepath.Join(dir, "usr/bin/tool"), os.ModeSetuid|0o755))
	settleTimes(t, dir)
	return dir
}

func settleTimes(t *testing.T, dir string) {
	t.Helper()
	var files []string
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error { files = append(files, p); return err })
	slices.Reverse(files)
	ts := unix.NsecToTimespec(epoch.UnixNano())
	for _, f := range files {
		check(t, unix.UtimesNanoAt(unix.AT_FDCWD, f, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func options(t *testing.T) Options {
	return Options{Free: 64 * mib, Label: "meros", Seed: "test", Epoch: epoch, Work: t.TempDir()}
}

func makeBase(t *testing.T, tree string) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "base.qcow2"))
	check(t, err)
	defer out.Close()
	check(t, FromTree(context.Background(), out, tree, options(t)))
	return out.Name()
}

func sum(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	check(t, err)
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func output(t *testing.T, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

// toRaw checks an image without a backing file and converts it to a raw disk.
func toRaw(t *testing.T, file string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "disk.raw")
	if s := output(t, "qemu-img", "check", "-f", "qcow2", file); !strings.Contains(s, "No errors were found") {
		t.Fatal(s)
	}
	output(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", file, raw)
	part := filepath.Join(t.TempDir(), "part.raw")
	output(t, "dd", "if="+raw, "of="+part, "bs=1M", "skip=1", "conv=sparse", "status=none")
	output(t, "e2fsck", "-fn", part)
	return raw
}

func debugfsCat(t *testing.T, raw, request string) string {
	t.Helper()
	cmd := exec.Command("debugfs", "-R", request, raw+"?offset=1048576")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("debugfs %s: %v %s", request, err, stderr.String())
	}
	return out.String()
}

func TestFromTreeIsSoundAndDeterministic(t *testing.T) {
	need(t, "mke2fs", "qemu-img", "e2fsck", "debugfs", "sfdisk")
	a := makeBase(t, sampleTree(t, false))
	time.Sleep(1100 * time.Millisecond) // another second on the host's clock
	labelled := sampleTree(t, true)
	for _, name := range []string{"etc/motd", "etc", "usr/bin/tool"} { // labels of the host, as from a security module
		check(t, unix.Setxattr(filepath.Join(labelled, name), "trusted.label", []byte("host"), 0))
	}
	b := makeBase(t, labelled)
	if sum(t, a) != sum(t, b) {
		t.Error("the same tree, created in another order, gives another image")
	}
	raw := toRaw(t, a)
	if s := output(t, "sfdisk", "--verify", raw); !strings.Contains(s, "No errors detected") {
		t.Error(s)
	}
	if got := debugfsCat(t, raw, "cat /etc/motd"); got != "hello\n" {
		t.Errorf("motd is %q", got)
	}
	if s := debugfsCat(t, raw, "stat /etc/motd"); !strings.Contains(s, "User:    33   Group: 70000") {
		t.Errorf("owner lost:\n%s", s)
	}
	if s := debugfsCat(t, raw, "stat /usr/bin/tool2"); !strings.Contains(s, "Mode:  04755") || !strings.Contains(s, "Links: 2") {
		t.Errorf("setuid or hard link lost:\n%s", s)
	}
}

// The host's attributes get into no image, whatever the names of the files.
func TestForeignAttributes(t *testing.T) {
	need(t, "mke2fs", "debugfs")
	lab.NeedRoot(t)
	tree := t.TempDir()
	dir := strings.Repeat("deeper than a line of debugfs/", 12)
	check(t, os.MkdirAll(filepath.Join(tree, dir), 0o755))
	for _, name := range []string{`a\x2db`, dir + "c"} {
		file := filepath.Join(tree, name)
		check(t, os.WriteFile(file, nil, 0o644))
		check(t, errors.Join(unix.Setxattr(file, "trusted.host", []byte("x"), 0), unix.Setxattr(file, "user.kept", []byte("y"), 0)))
	}
	raw := toRaw(t, makeBase(t, tree))
	for _, name := range []string{`/a\x2db`, "/" + dir + "c"} {
		if got := debugfsCat(t, raw, "ea_list "+quoted(name)); strings.Contains(got, "trusted") || !strings.Contains(got, "user.kept") {
			t.Errorf("%s has %s", name, got)
		}
	}
}
