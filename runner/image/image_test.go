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
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/bench/lab"
)

var epoch = time.Unix(1_700_000_000, 0)

// need skips a test for want of programs, except in CI, where that is a failure.
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

// toRaw converts an image that stands alone and checks it on the way.
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
	for _, name := range []string{"etc/motd", "etc", "usr/bin/tool"} { // as a security module does
		check(t, unix.Setxattr(filepath.Join(labelled, name), "trusted.label", []byte("host"), 0))
	}
	b := makeBase(t, labelled)
	if sum(t, a) != sum(t, b) {
		t.Error("the same tree, made in another order, gave another image")
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

// sampleLayer changes, adds, replaces and removes.
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
		t.Errorf("made twice, it differs (%v)", err)
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
		t.Error("the way it was made shows in the image")
	}
}

// hidePath makes a PATH with all programs these tests need but one.
func hidePath(t *testing.T, hidden string) string {
	dir := t.TempDir()
	for _, p := range []string{"mke2fs", "debugfs", "e2fsck", "qemu-img", "qemu-storage-daemon"} {
		if file, err := exec.LookPath(p); err == nil && p != hidden {
			check(t, os.Symlink(file, filepath.Join(dir, p)))
		}
	}
	return dir
}

// Directories go with all that is in them, and become something else.
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

// Somebody else's image is changed whatever a hook has made, but for what
// debugfs cannot be told.
func TestDeltaOfOddNames(t *testing.T) {
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
	for i := range manyLinks { // more than a block of the directory holds
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
			t.Errorf("%s has not all of its names:\n%s", n, got)
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

// accessList lets user 1000 read, in the form of acl(5) that setxattr(2) takes.
const accessList = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

// attributeNames are those of a file's extended attributes.
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

// patched is what becomes of an image of the tree theirs, of which layers have
// ours.
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

// A file of somebody else's image that only gets another mode, owner, time or
// attribute keeps what no layer has.
func TestDeltaKeepsWhatOnlyTheBaseHas(t *testing.T) {
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

// What only this host knows of its files is in no image, whatever they are called.
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

func TestDeltaRefusesWhatARepackDoesBetter(t *testing.T) {
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
		"no room": func(dir string) error {
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

// A file may have as many names as ext4 can count, and no more, wherever the
// tree lies; symbolic links are files of their own.
func TestManyLinks(t *testing.T) {
	lab.NeedRoot(t)
	need(t, "mke2fs", "e2fsck", "qemu-img")
	const all, each = 100_000, 1000
	for name, test := range map[string]struct {
		links int
		link  func(old, new string) error
		fails bool
	}{
		"most":     {maxLinks, os.Link, false},
		"too many": {all, os.Link, true},
		"symbolic": {all, os.Symlink, false},
	} {
		t.Run(name, func(t *testing.T) {
			tree := lab.InMemory(t)
			first := filepath.Join(tree, "0/f")
			check(t, os.Mkdir(filepath.Dir(first), 0o755))
			check(t, os.WriteFile(first, []byte("x"), 0o644))
			for i := 1; i < test.links; i++ {
				dir := filepath.Join(tree, fmt.Sprint(i/each))
				if i%each == 0 {
					check(t, os.Mkdir(dir, 0o755))
				}
				check(t, test.link(first, filepath.Join(dir, fmt.Sprint(i))))
			}
			out, err := os.Create(filepath.Join(t.TempDir(), "x"))
			check(t, err)
			defer out.Close()
			err = FromTree(t.Context(), out, tree, options(t))
			if test.fails {
				if err == nil || !strings.Contains(err.Error(), "has more than 65000 names") {
					t.Errorf("%v", err)
				}
				return
			}
			check(t, err)
			toRaw(t, out.Name())
		})
	}
}

// A disk is made, however small, or what it needs is said: that much more is
// enough for it, and not much less.
func TestTooSmallADiskSaysByHowMuch(t *testing.T) {
	need(t, "mke2fs", "e2fsck", "qemu-img")
	manyLinks := t.TempDir()
	for i := range 500 {
		check(t, os.Symlink(strings.Repeat("long", 20), filepath.Join(manyLinks, fmt.Sprintf("%s%d", strings.Repeat("n", 200), i))))
	}
	large := t.TempDir()
	check(t, os.WriteFile(filepath.Join(large, "large"), bytes.Repeat([]byte("x"), 30*mib), 0o644))
	for name, tree := range map[string]string{"files": sampleTree(t, false), "links": manyLinks, "large": large, "nothing": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			make := func(size int64) (string, error) {
				o := options(t)
				o.Size = size
				out, err := os.Create(filepath.Join(t.TempDir(), "x"))
				check(t, err)
				defer out.Close()
				return out.Name(), FromTree(t.Context(), out, tree, o)
			}
			least := sort.Search(160, func(i int) bool { _, err := make(int64(i+4) * mib); return err == nil })
			for _, size := range []int64{6, int64(least) + 3} {
				_, err := make(size * mib)
				if err == nil {
					t.Fatalf("%d MiB are too small, and enough", size)
				}
				var missing int64
				if _, err := fmt.Sscanf(err.Error(), "the disk is too small for its files: %d MiB are missing (raise disk_size)", &missing); err != nil || missing < 1 {
					t.Fatalf("%d MiB: %v", size, err)
				}
				if over := size + missing - int64(least+4); over > 4 {
					t.Errorf("of %d MiB, %d are said to be missing: %d too many", size, missing, over)
				}
				file, err := make((size + missing) * mib)
				if err != nil {
					t.Fatalf("with the %d MiB that were missing: %v", missing, err)
				}
				toRaw(t, file)
			}
			for size := int64(least + 4); size < 140; size += 29 {
				if _, err := make(size * mib); err != nil {
					t.Errorf("%d MiB: %v", size, err)
				}
			}
		})
	}
}

// A machine that is to have little room is as small as it can be.
func TestLittleRoom(t *testing.T) {
	need(t, "mke2fs", "e2fsck", "qemu-img")
	links := t.TempDir() // each takes a block
	for i := range 4000 {
		dir := filepath.Join(links, fmt.Sprint(i/100))
		check(t, errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(strings.Repeat("long", 20), filepath.Join(dir, fmt.Sprint(i)))))
	}
	for name, tree := range map[string]string{"files": sampleTree(t, false), "links": links} {
		for _, free := range []int64{0, 10} {
			o := options(t)
			o.Free = free * mib
			out, err := os.Create(filepath.Join(t.TempDir(), "x"))
			check(t, err)
			defer out.Close()
			if err := FromTree(t.Context(), out, tree, o); err != nil {
				t.Errorf("%s, %d MiB free: %v", name, free, err)
				continue
			}
			toRaw(t, out.Name())
		}
	}
}

// A disk that the host has no file for says so.
func TestTooLargeADisk(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	check(t, err)
	defer f.Close()
	if err := resize(f, 1<<62); err == nil || !strings.Contains(err.Error(), "has no files as large as the disk, 4294967296 GiB (make it smaller") {
		t.Errorf("%v", err)
	}
}

func TestQcow2ReadsWhatQEMUWrites(t *testing.T) {
	need(t, "qemu-img")
	raw := filepath.Join(t.TempDir(), "raw")
	f, err := os.Create(raw)
	check(t, err)
	check(t, f.Truncate(700*mib)) // more than one L2 table
	for _, at := range []int64{0, 123456, 600 * mib, 700*mib - 100} {
		_, err := f.WriteAt([]byte("data"), at)
		check(t, err)
	}
	f.Close()
	img := raw + ".qcow2"
	output(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, img)
	out, err := os.Create(raw + ".ours")
	check(t, err)
	defer out.Close()
	check(t, Flatten(context.Background(), out, []string{img}))
	if s := output(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", out.Name(), raw); !strings.Contains(s, "Images are identical") {
		t.Error(s)
	}
	output(t, "qemu-img", "check", "-f", "qcow2", out.Name())
}

// FuzzQcow2 looks for headers and tables that crash the reader or make it
// allocate without bounds.
func FuzzQcow2(f *testing.F) {
	dir := f.TempDir()
	out, err := os.Create(filepath.Join(dir, "seed"))
	if err != nil {
		f.Fatal(err)
	}
	if err := writeQcow2(out, 4*mib, []cluster{{guest: 3, zero: true}}, "base"); err != nil {
		f.Fatal(err)
	}
	seed, _ := os.ReadFile(out.Name())
	f.Add(seed[:clusterSize], seed[clusterSize:])
	f.Fuzz(func(t *testing.T, header, rest []byte) {
		file := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(file, append(header, rest...), 0o600); err != nil {
			t.Fatal(err)
		}
		if q, err := openQcow2(file); err == nil {
			buf := make([]byte, clusterSize)
			for g := range q.cluster {
				q.bytes(g, buf)
			}
			q.Close()
		}
	})
}
