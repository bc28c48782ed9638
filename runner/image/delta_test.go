// This file tests differences: how layers change an image.

package image

import (
	"bytes"
	"context"
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

// sampleLayer makes a layer that changes, adds, replaces and removes files.
func sampleLayer(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"etc/motd": "changed\n", "opt/new dir/a file": "new\n", "usr/share/doc/p001/copyright": ""} {
		f := filepath.Join(dir, name)
		check(t, errors.Join(os.MkdirAll(filepath.Dir(f), 0o755), os.WriteFile(f, []byte(content), 0o644)))
	}
	check(t, os.Chown(filepath.Join(dir, "opt/new dir/a file"), 12, 34))
	check(t, unix.Setxattr(filepath.Join(dir, "opt/new dir/a file"), "user.note", []byte("a\x00b"), 0))
	check(t, os.Symlink("/etc/motd", filepath.Join(dir, "opt/link")))
	check(t, unix.Mknod(filepath.Join(dir, "etc/passwd"), unix.S_IFCHR, 0))
	settleTimes(t, dir)
	return dir
}

func makeDelta(t *testing.T, base, tree string, layers ...string) (string, error) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "delta.qcow2"))
	check(t, err)
	defer out.Close()
	return out.Name(), Delta(context.Background(), out, base, "base.qcow2", tree, layers, options(t))
}

func TestDeltaAndFlatten(t *testing.T) {
	need(t, "mke2fs", "qemu-img", "e2fsck", "debugfs", "qemu-storage-daemon")
	if !canExport() {
		lab.Skip(t, "/dev/fuse cannot be opened")
	}
	tree, layer := sampleTree(t, false), sampleLayer(t)
	base := makeBase(t, tree)
	delta, err := makeDelta(t, base, tree, layer)
	check(t, err)
	if name, err := Backing(delta); err != nil || name != "base.qcow2" {
		t.Errorf("backing file is %q, %v", name, err)
	}
	if fi, _ := os.Stat(delta); fi.Size() > 2*mib {
		t.Errorf("the difference takes %d bytes", fi.Size())
	}
	time.Sleep(1100 * time.Millisecond)
	if again, err := makeDelta(t, base, tree, layer); err != nil || sum(t, again) != sum(t, delta) {
		t.Errorf("a second build differs (%v)", err)
	}

	out, err := os.Create(filepath.Join(t.TempDir(), "flat.qcow2"))
	check(t, err)
	check(t, Flatten(context.Background(), out, []string{delta, base}))
	raw := toRaw(t, out.Name())
	for request, want := range map[string]string{
		"cat /etc/motd":                               "changed\n",
		"cat \"/opt/new dir/a file\"":                 "new\n",
		"ea_get -x \"/opt/new dir/a file\" user.note": "61 00 62",
		"stat \"/opt/new dir/a file\"":                "User:    12   Group:    34",
		"stat /opt/link":                              "/etc/motd",
		"stat /usr/share/doc/p001/copyright":          "Size: 0",
		"ls /etc":                                     "motd",
	} {
		if got := debugfsCat(t, raw, request); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", request, got, want)
		}
	}
	if s := debugfsCat(t, raw, "ls /etc"); strings.Contains(s, "passwd") {
		t.Errorf("the removed file is still there: %s", s)
	}
}

func TestDeltaWithoutFUSEIsTheSame(t *testing.T) {
	need(t, "mke2fs", "debugfs", "qemu-storage-daemon")
	if !canExport() {
		lab.Skip(t, "/dev/fuse cannot be opened")
	}
	tree, layer := sampleTree(t, false), sampleLayer(t)
	base := makeBase(t, tree)
	exported, err := makeDelta(t, base, tree, layer)
	check(t, err)
	t.Setenv("PATH", hidePath(t, "qemu-storage-daemon"))
	if canExport() {
		t.Fatal("qemu-storage-daemon is still found")
	}
	copied, err := makeDelta(t, base, tree, layer)
	check(t, err)
	if sum(t, exported) != sum(t, copied) {
		t.Error("the copy gives another image than the export")
	}
}

// hidePath returns a PATH with all programs that these tests need, except one.
func hidePath(t *testing.T, hidden string) string {
	dir := t.TempDir()
	for _, p := range []string{"mke2fs", "debugfs", "e2fsck", "qemu-img", "qemu-storage-daemon"} {
		if file, err := exec.LookPath(p); err == nil && p != hidden {
			check(t, os.Symlink(file, filepath.Join(dir, p)))
		}
	}
	return dir
}

// Directories are removed with their content, and replaced by files.
func TestDeltaOfDirectories(t *testing.T) {
	need(t, "mke2fs", "debugfs", "e2fsck")
	tree := t.TempDir()
	for _, f := range []string{"gone/a/b/file", "gone/c", "gone-not/x", "becomes-file/a/b", "opaque/old/file", "opaque/kept", "file-becomes", "stays/x"} {
		check(t, errors.Join(os.MkdirAll(filepath.Join(tree, filepath.Dir(f)), 0o755), os.WriteFile(filepath.Join(tree, f), []byte("base\n"), 0o644)))
	}
	check(t, os.Symlink("c", filepath.Join(tree, "gone/link")))
	first, second := t.TempDir(), t.TempDir()
	check(t, errors.Join(
		unix.Mknod(filepath.Join(first, "gone"), unix.S_IFCHR, 0),
		os.WriteFile(filepath.Join(first, "becomes-file"), []byte("file\n"), 0o644),
		os.MkdirAll(filepath.Join(first, "opaque"), 0o755), unix.Setxattr(filepath.Join(first, "opaque"), "user.overlay.opaque", []byte("y"), 0),
		os.WriteFile(filepath.Join(first, "opaque/kept"), []byte("new\n"), 0o600),
		os.MkdirAll(filepath.Join(first, "file-becomes/dir"), 0o750),
		os.MkdirAll(filepath.Join(second, "gone"), 0o700), os.WriteFile(filepath.Join(second, "gone/again"), []byte("again\n"), 0o644),
	))
	base := makeBase(t, tree)
	delta, err := makeDelta(t, base, tree, first, second)
	check(t, err)
	out, err := os.Create(filepath.Join(t.TempDir(), "flat.qcow2"))
	check(t, err)
	check(t, Flatten(context.Background(), out, []string{delta, base}))
	raw := toRaw(t, out.Name())
	if said, err := exec.Command("e2fsck", "-fn", raw+"?offset=1048576").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for request, want := range map[string]string{
		"ls -p /": "becomes-file/ file-becomes/ gone-not/ gone/ lost+found/ opaque/ stays/", "ls -p /gone": "again/", "ls -p /opaque": "kept/", "ls -p /file-becomes": "dir/", "ls -p /gone-not": "x/",
	} {
		var names []string
		for l := range strings.Lines(debugfsCat(t, raw, request)) {
			if f := strings.Split(l, "/"); len(f) > 5 && f[5] != "." && f[5] != ".." && f[5] != "" {
				names = append(names, f[5]+"/")
			}
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %s, want %s", request, got, want)
		}
	}
	for request, want := range map[string]string{"cat /becomes-file": "file\n", "cat /opaque/kept": "new\n", "cat /gone/again": "again\n", "stat /file-becomes": "Mode:  0750", "stat /gone": "Mode:  0700"} {
		if got := debugfsCat(t, raw, request); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", request, got, want)
		}
	}
}

// A patch of a foreign image accepts whatever a hook may create, except for the few
// things that debugfs cannot express.
func TestDeltaOfUnusualNames(t *testing.T) {
	need(t, "mke2fs", "debugfs", "e2fsck")
	tree := sampleTree(t, false)
	base := makeBase(t, tree)
	layer := t.TempDir()
	deep := strings.Repeat("deeper than a line of debugfs/", 12)
	names := []string{`system\x2dcryptsetup.slice`, `quo"te`, "sp  ace\ttab", "-f", "!true", "#x", deep + "file", strings.Repeat("n", 200), "ü"}
	check(t, os.MkdirAll(filepath.Join(layer, deep), 0o755))
	for _, n := range names {
		check(t, os.WriteFile(filepath.Join(layer, n), []byte(n), 0o640))
	}
	check(t, unix.Setxattr(filepath.Join(layer, "-f"), "user.note", []byte("x"), 0))
	check(t, os.Symlink(`to "\x2d`, filepath.Join(layer, `li"nk`)))
	check(t, os.Link(filepath.Join(layer, "ü"), filepath.Join(layer, "hard")))
	const manyLinks = 100
	check(t, os.Mkdir(filepath.Join(layer, "many"), 0o755))
	for i := range manyLinks { // more than one block of the directory holds
		check(t, os.Link(filepath.Join(layer, "ü"), filepath.Join(layer, "many", fmt.Sprintf("%0150d", i))))
	}
	o := options(t)
	o.Patch, o.Offset = true, PartitionOffset
	out, err := os.Create(filepath.Join(t.TempDir(), "delta.qcow2"))
	check(t, err)
	defer out.Close()
	check(t, Delta(t.Context(), out, base, "base.qcow2", tree, []string{layer}, o))
	flat, err := os.Create(filepath.Join(t.TempDir(), "flat.qcow2"))
	check(t, err)
	defer flat.Close()
	check(t, Flatten(t.Context(), flat, []string{out.Name(), base}))
	raw := toRaw(t, flat.Name())
	if said, err := exec.Command("e2fsck", "-fn", raw+"?offset=1048576").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
	for _, n := range append(names, "hard") {
		want := n
		if n == "hard" {
			want = "ü"
		}
		if got := debugfsCat(t, raw, "cat "+quoted("/"+n)); got != want {
			t.Errorf("%q holds %q", n, got)
		}
	}
	for _, n := range []string{"/hard", "/ü", "/many/" + fmt.Sprintf("%0150d", manyLinks-1)} {
		if got := debugfsCat(t, raw, "stat "+n); !strings.Contains(got, fmt.Sprintf("Links: %d ", 2+manyLinks)) {
			t.Errorf("%s lacks some of its names:\n%s", n, got)
		}
	}
	if got := debugfsCat(t, raw, "ea_get ./-f user.note"); !strings.Contains(got, "x") {
		t.Errorf("the attribute of -f is %q", got)
	}
	if got := debugfsCat(t, raw, `stat "/li""nk"`); !strings.Contains(got, `to "\x2d`) {
		t.Errorf("the link is\n%s", got)
	}
	check(t, unix.Mkfifo(filepath.Join(layer, "pipe"), 0o600))
	o = options(t)
	o.Patch, o.Offset = true, PartitionOffset
	if err := Delta(t.Context(), out, base, "base.qcow2", tree, []string{layer}, o); !errors.Is(err, ErrRepack) || !strings.Contains(err.Error(), "/pipe is a device") {
		t.Errorf("a pipe: %v", err)
	}
}

// accessList lets user 1000 read, in the form of acl(5) that setxattr(2) expects.
const accessList = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

// attributeNames returns the names of a file's extended attributes.
func attributeNames(t *testing.T, raw, name string) string {
	t.Helper()
	var found []string
	for line := range strings.Lines(output(t, "debugfs", "-R", "ea_list /"+name, raw)) {
		if attr, _, ok := strings.Cut(strings.TrimSpace(line), " ("); ok && !strings.Contains(attr, " ") {
			found = append(found, attr)
		}
	}
	slices.Sort(found)
	return strings.Join(found, " ")
}

// patched makes an image of the tree theirs and applies the layer to it. ours is the
// same tree as layers hold it.
func patched(t *testing.T, home, theirs, ours, layer string) (raw string) {
	t.Helper()
	disk := filepath.Join(home, "disk.raw")
	output(t, "truncate", "-s", "64M", disk)
	output(t, "mke2fs", "-q", "-t", "ext4", "-d", theirs, disk)
	in, err := os.Open(disk)
	check(t, err)
	defer in.Close()
	base, err := os.Create(filepath.Join(home, "base.qcow2"))
	check(t, err)
	check(t, errors.Join(FromRaw(base, in), base.Close()))
	out, err := os.Create(filepath.Join(home, "delta.qcow2"))
	check(t, err)
	o := options(t)
	o.Patch = true
	check(t, errors.Join(Delta(context.Background(), out, base.Name(), "base.qcow2", ours, []string{layer}, o), out.Close()))
	flat, err := os.Create(filepath.Join(home, "flat.qcow2"))
	check(t, err)
	check(t, errors.Join(Flatten(context.Background(), flat, []string{out.Name(), base.Name()}), flat.Close()))
	raw = filepath.Join(home, "flat.raw")
	output(t, "qemu-img", "convert", "-O", "raw", flat.Name(), raw)
	output(t, "e2fsck", "-fn", raw)
	return raw
}

// A file of a foreign image keeps the metadata that layers lack, if only its mode,
// owner, time or attributes change.
func TestDeltaPreservesForeignMetadata(t *testing.T) {
	need(t, "mke2fs", "debugfs", "e2fsck")
	home := t.TempDir()
	theirs, ours, layer := filepath.Join(home, "theirs"), filepath.Join(home, "ours"), filepath.Join(home, "layer")
	make := func(dir, name, text string) string {
		file := filepath.Join(dir, name)
		check(t, errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)))
		return file
	}
	names := []string{"d/mode", "d/owner", "d/attributes", "d/content", "d/linked"}
	for _, name := range names {
		make(ours, name, "base")
		make(layer, name, "base")
		for attr, value := range map[string]string{"security.ima": strings.Repeat("i", 100), "security.selinux": "label", "user.old": "u", "system.posix_acl_access": accessList} {
			check(t, unix.Setxattr(make(theirs, name, "base"), attr, []byte(value), 0))
		}
		check(t, unix.Setxattr(filepath.Join(ours, name), "user.old", []byte("u"), 0)) // as a layer has it
		check(t, unix.Setxattr(filepath.Join(layer, name), "user.old", []byte("u"), 0))
	}
	check(t, errors.Join(
		unix.Setxattr(filepath.Join(theirs, "d"), "security.selinux", []byte("label"), 0), unix.Setxattr(filepath.Join(theirs, "d"), "user.old", []byte("u"), 0), unix.Setxattr(filepath.Join(ours, "d"), "user.old", []byte("u"), 0),
		os.Link(filepath.Join(theirs, "d/linked"), filepath.Join(theirs, "other")), os.Link(filepath.Join(ours, "d/linked"), filepath.Join(ours, "other")),
		os.Symlink("mode", filepath.Join(theirs, "d/link")), os.Symlink("mode", filepath.Join(ours, "d/link")), os.Symlink("mode", filepath.Join(layer, "d/link")),
		unix.Lsetxattr(filepath.Join(theirs, "d/link"), "security.selinux", []byte("label"), 0), os.Lchown(filepath.Join(layer, "d/link"), 7, 9),
		os.Chmod(filepath.Join(layer, "d/mode"), 0o640), os.Chown(filepath.Join(layer, "d/owner"), 7, 9), os.Chown(filepath.Join(layer, "d/linked"), 7, 9),
		unix.Removexattr(filepath.Join(layer, "d/attributes"), "user.old"), unix.Setxattr(filepath.Join(layer, "d/attributes"), "user.new", []byte("n"), 0),
		os.WriteFile(filepath.Join(layer, "d/content"), []byte("text"), 0o644),
	))
	raw := patched(t, home, theirs, ours, layer)
	for name, want := range map[string]string{
		"d/mode":       "security.ima security.selinux user.old",
		"d/owner":      "security.ima security.selinux system.posix_acl_access user.old",
		"d/attributes": "security.ima security.selinux system.posix_acl_access user.new",
		"d/content":    "user.old",
		"d/linked":     "user.old",
		"other":        "security.ima security.selinux system.posix_acl_access user.old",
		"d/link":       "security.selinux",
		"d":            "security.selinux",
	} {
		if got := attributeNames(t, raw, name); got != want {
			t.Errorf("%s has %s, want %s", name, got, want)
		}
	}
	for name, want := range map[string]string{"d/mode": "Mode:  0640", "d/owner": "User:     7   Group:     9", "d/linked": "User:     7   Group:     9", "other": "User:     0", "d/link": "User:     7   Group:     9"} {
		if got := output(t, "debugfs", "-R", "stat /"+name, raw); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestDeltaAsksForARepack(t *testing.T) {
	need(t, "mke2fs", "debugfs")
	tree := sampleTree(t, false)
	base := makeBase(t, tree)
	for name, build := range map[string]func(dir string) error{
		"newline in a name":         func(dir string) error { return os.WriteFile(filepath.Join(dir, "a\nb"), nil, 0o644) },
		"carriage return in a name": func(dir string) error { return os.WriteFile(filepath.Join(dir, "Icon\r"), nil, 0o644) },
		"carriage return in a link": func(dir string) error { return os.Symlink("Icon\r", filepath.Join(dir, "a")) },
		"number of an inode":        func(dir string) error { return os.WriteFile(filepath.Join(dir, "<12>"), nil, 0o666) },
		"directory of such a name": func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "<2>"), 0o755), os.WriteFile(filepath.Join(dir, "<2>/a"), nil, 0o644))
		},
		"command in an attribute": func(dir string) error {
			file := filepath.Join(dir, "a")
			return errors.Join(os.WriteFile(file, nil, 0o644), unix.Setxattr(file, "user.x\n!touch /tmp/x", []byte("y"), 0))
		},
		"hard link": func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "a"), nil, 0o644), os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
		},
		"no free space": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("x"), 95*mib), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			layer := t.TempDir()
			check(t, build(layer))
			if _, err := makeDelta(t, base, tree, layer); !errors.Is(err, ErrRepack) {
				t.Errorf("got %v", err)
			}
		})
	}
}
