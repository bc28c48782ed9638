// This file tests machines on foreign images: fetched, patched, booted and
// exported.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"meros/bench/lab"
	"meros/constellations"
	"meros/runner/debian"
)

// TestBaseURL checks that a build fetches the image of the manifest's URL, and
// that the lock pins it.
func TestBaseURL(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	images := foreignImages(t, foreignTree(t))
	image := filepath.Join(images[""], images["gpt"])
	sum, err := fileDigest(image)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(images[""])))
	defer server.Close()
	p := lab.Downloaded(t, "used")
	for name, text := range useFiles {
		p.Write(t, "constellations/used/"+name, text)
	}
	p.Must(t, "build", "used", "--rootfs-only", "--use", image)
	want := disk(t, p, "used-m")
	once := server.URL + "/" + images["gpt"] + "?once"
	fails(t, p.Run(t, "build", "used", "--rootfs-only", "--use", once, "--locked"), 1, "the base image of m ("+once+")", "meros build used m --use "+once)
	p.Must(t, "build", "used", "--rootfs-only", "--use", once)
	if got := disk(t, p, "used-m"); got != want {
		t.Error("the image that --use fetches gives a different disk")
	}
	for _, url := range []string{server.URL + "/" + images["gpt"], "file://" + image} {
		manifest := strings.Replace(useFiles["manifest.yml"], "m: {", "m: {base: \""+url+"\", base_sha256: "+sum+", ", 1)
		p.Write(t, "constellations/used/manifest.yml", strings.Replace(manifest, sum, strings.Repeat("0", 64), 1))
		fails(t, p.Run(t, "build", "used", "--rootfs-only"), 1, "the base image of m", "has the digest sha256:"+sum[:12]+",", "but the manifest says", "replace it by "+sum)
		p.Write(t, "constellations/used/manifest.yml", manifest)
		fails(t, p.Run(t, "build", "used", "--rootfs-only", "--locked"), 1, "the base image of m ("+url+")")
		o := lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, "build", "used", "--rootfs-only")))
		if o.Exit != 0 {
			t.Fatalf("exit status %d\n%s", o.Exit, o.Stderr)
		}
		if lock := readFile(t, p.Path("constellations/used/meros.lock")); !strings.Contains(lock, "\nsource image "+url+" ") {
			t.Errorf("the lock does not pin the image:\n%s", lock)
		}
		if got := disk(t, p, "used-m"); got != want {
			t.Error("the fetched image gives a different disk")
		}
	}
	p.Must(t, "build", "used", "--rootfs-only", "--use", once, "--locked") // the lock still pins it, although it pinned others since
	leftovers(t, p)
}

// useFiles is a constellation that changes a foreign image. It adds a file, changes
// one, and removes a file and a directory. A hook makes a file with two names, as
// some packages have.
var useFiles = map[string]string{
	"manifest.yml":               "virtual_machines:\n  m: {suite: bookworm, memory: 384M, cpus: 1, build_free_mb: 64}\n",
	"m/includes.chroot/etc/motd": "patched\n",
	"m/includes.chroot/srv/new":  "new\n",
	"m/hooks/01.chroot":          "#!/bin/sh\nset -e\nrm /etc/issue.net\nln /etc/debian_version /etc/systemd/again\nrm -r /etc/skel\ncat /etc/debian_version > /etc/hooked\nln /etc/hooked \"/etc/systemd/hard\\\\x2dlink\"\nchmod 640 /etc/labelled\n" + hookAttributes("/etc/hooked"),
}

// netRaw is the value of security.capability that lets a program open raw sockets,
// in version 2 of the format in capabilities(7).
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// accessList is an access list of acl(5) that lets user 1000 read, in the format
// that setxattr(2) takes.
const accessList = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

// hookAttributes returns a line of a hook that gives a file extended attributes.
// It uses perl because a small system has no other program for that.
func hookAttributes(file string) string {
	const setxattr = 188 // on x86_64, syscalls(2)
	return fmt.Sprintf("perl -e '$f = %q; $n = \"user.hook\"; $v = \"h\"; syscall(%d, $f, $n, $v, 1, 0) == 0 or die $!; $n = \"security.capability\"; $v = pack(\"V5\", 0x02000001, 0x2000, 0, 0, 0); syscall(%[2]d, $f, $n, $v, 20, 0) == 0 or die $!'\n", file, setxattr)
}

// capable gives a file a capability and an attribute of the user.
func capable(t *testing.T, file string) {
	t.Helper()
	if err := errors.Join(unix.Setxattr(file, "security.capability", []byte(netRaw), 0), unix.Setxattr(file, "user.mine", []byte("x"), 0)); err != nil {
		t.Fatal(err)
	}
}

// rareFiles adds files that few systems have: device nodes, pipes, access lists
// and attributes.
func rareFiles(t *testing.T, tree string) {
	t.Helper()
	lab.Time(t, "sh", "-c", `cd "$1"; chown 7:9 srv; chmod 3775 srv; mknod -m 666 dev/nothing c 1 3; mknod -m 660 dev/disk9 b 8 9; mkfifo opt/pipe; mkdir -m 2750 opt/shared
echo capable > opt/capable; echo labelled > etc/labelled; echo shared > opt/listed; ln -s ../nowhere opt/dangling; chown -h 7:9 opt/dangling; touch -h -d @1000000000 opt/*`, "sh", tree)
	capable(t, filepath.Join(tree, "opt/capable"))
	for _, x := range []struct{ name, attr, value string }{
		{"etc", "user.dir", "d"}, {"srv", "user.dir", "d"}, {"opt/listed", "system.posix_acl_access", accessList}, {"opt/shared", "system.posix_acl_default", accessList},
		{"etc/labelled", "security.selinux", "system_u:object_r:etc_t:s0\x00"}, {"etc/labelled", "user.mine", "x"},
	} {
		if err := unix.Setxattr(filepath.Join(tree, x.name), x.attr, []byte(x.value), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// foreignTree returns a root file system that mmdebstrap makes, with rareFiles.
func foreignTree(t *testing.T) string {
	t.Helper()
	lab.Need(t, "mmdebstrap", "mke2fs", "qemu-img", "sfdisk", "fuse2fs", "debugfs", "e2fsck")
	p := lab.Downloaded(t, "from")
	p.Write(t, "constellations/from/manifest.yml", plain)
	lock, err := constellations.ReadLock(p.Path("constellations/from/meros.lock"))
	if err != nil {
		t.Fatal(err)
	}
	section := lock.Section(constellations.Section{Distribution: "debian", Suite: "bookworm", Arch: "x86_64"})
	var debs []string
	for _, d := range section.Base {
		debs = append(debs, p.Path(filepath.Join("data/cache/cas", d.SHA256[:2], d.SHA256)))
	}
	dir := lab.InMemory(t) // on a disk dpkg would wait for its writes
	os.Chmod(dir, 0o755)
	archive, tree := filepath.Join(dir, "archive"), filepath.Join(dir, "tree")
	names, err := debian.LocalArchive(t.Context(), archive, "bookworm", "amd64", debs, section.Date)
	if err != nil {
		t.Fatal(err)
	}
	lab.Time(t, "mmdebstrap", "--quiet", "--mode=root", "--variant=essential", "--format=directory", "--include="+strings.Join(names, ","), "--skip=check/qemu",
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "bookworm", tree, "deb [trusted=yes] copy://"+archive+" bookworm main")
	rareFiles(t, tree)
	return tree
}

// foreignImages makes images of a tree: a file system alone, and one in a partition
// of each kind of table. It returns the file names by kind, and their directory
// under the key "".
func foreignImages(t *testing.T, tree string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	const script = `set -e
cd "$DIR"
mke2fs -q -t ext4 -d "$TREE" -L alone alone.raw 400M
qemu-img convert -O qcow2 -c alone.raw alone.qcow2
truncate -s 450M mbr.raw
printf 'label: dos\n2048,,83,*\n' | sfdisk -q mbr.raw
mke2fs -q -t ext3 -E offset=1048576 -d "$TREE" mbr.raw 409600k
qemu-img convert -O vmdk mbr.raw mbr.vmdk
truncate -s 500M gpt.raw
printf 'label: gpt\n2048,20480,U\n,,L\n' | sfdisk -q gpt.raw
dd if=/dev/urandom of=gpt.raw bs=1M seek=1 count=10 conv=notrunc status=none; cp gpt.raw before-gpt.raw
mke2fs -q -t ext4 -E offset=11534336 -d "$TREE" gpt.raw 430080k
qemu-img convert -O qcow2 gpt.raw gpt.qcow2
rm mbr.raw gpt.raw`
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), "DIR="+dir, "TREE="+tree)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return map[string]string{"alone": "alone.qcow2", "mbr": "mbr.vmdk", "gpt": "gpt.qcow2", "": dir}
}

// TestUse patches foreign images. The disk must have the changes and all other
// files of the image, and the image itself must not change.
func TestUse(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	tree := foreignTree(t)
	images := foreignImages(t, tree)
	dir := images[""]
	delete(images, "")
	p := lab.Downloaded(t, "used")
	for name, text := range useFiles {
		p.Write(t, "constellations/used/"+name, text)
	}
	for name, file := range images {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(dir, file)
			before, err := fileDigest(image)
			if err != nil {
				t.Fatal(err)
			}
			run := func() *lab.Outcome { return p.Must(t, "build", "used", "m", "--rootfs-only", "--use", image) }
			if name == "gpt" { // as an ordinary user
				run = func() *lab.Outcome {
					return lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, "build", "used", "m", "--rootfs-only", "--use", image)))
				}
			}
			if o := run(); o.Exit != 0 {
				t.Fatalf("exit status %d\n%s", o.Exit, o.Stderr)
			}
			if after, err := fileDigest(image); err != nil || after != before {
				t.Errorf("the image has changed, error %v", err)
			}
			offset := map[string]int64{"mbr": 1 << 20, "gpt": 11 << 20}[name]
			result := filepath.Join(t.TempDir(), "result.raw")
			wholeDisk(t, p.Path("data/disks/used-m.qcow2"), result)
			if name == "gpt" {
				if out, err := exec.Command("cmp", "-n", "10485760", "-i", "1048576", filepath.Join(dir, "before-gpt.raw"), result).CombinedOutput(); err != nil {
					t.Errorf("the other partition has changed: %v\n%s", err, out)
				}
			}
			patchedFiles(t, tree, filesOf(t, result, offset))
			if o := run(); len(o.Ran()) > 1 { // the stage disk may run, because all images share its file
				t.Errorf("the second build ran %q", o.Ran())
			}
			leftovers(t, p)
		})
	}
	t.Run("export", func(t *testing.T) { exportedBase(t, p, filepath.Join(dir, images["gpt"])) })
	t.Run("hooks in the machine", func(t *testing.T) { patchedInVM(t, p, tree, filepath.Join(dir, images["gpt"])) })
}

// patchedInVM checks that the machine's own kernel writes files that debugfs cannot
// write, such as pipes.
func patchedInVM(t *testing.T, p *lab.Project, tree, image string) {
	lab.Need(t, "qemu-system-x86_64")
	before, err := fileDigest(image)
	if err != nil {
		t.Fatal(err)
	}
	pipe := p.Path("constellations/used/m/includes.chroot/etc/systemd/pipe")
	if err := errors.Join(os.MkdirAll(filepath.Dir(pipe), 0o755), unix.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	p.Write(t, "constellations/used/manifest.yml", useFiles["manifest.yml"])
	fails(t, p.Run(t, "build", "used", "m", "--rootfs-only", "--use", image), 1, "/etc/systemd/pipe is a device, a socket or a pipe", "hooks: {in: vm}")
	p.Write(t, "constellations/used/manifest.yml", strings.Replace(useFiles["manifest.yml"], "m: {", "m: {hooks: {in: vm}, ", 1))
	p.Must(t, "build", "used", "m", "--rootfs-only", "--use", image)
	result := filepath.Join(t.TempDir(), "result.raw")
	wholeDisk(t, p.Path("data/disks/used-m.qcow2"), result)
	got := filesOf(t, result, 11<<20)
	patchedFiles(t, tree, got)
	if fi, err := os.Lstat(filepath.Join(got, "etc/systemd/pipe")); err != nil || fi.Mode() != os.ModeNamedPipe|0o600 {
		t.Errorf("the pipe is %v, error %v", fi, err)
	}
	if after, err := fileDigest(image); err != nil || after != before {
		t.Errorf("the image has changed, error %v", err)
	}
	leftovers(t, p)
}

// wholeDisk checks an image and makes a raw copy of it.
func wholeDisk(t *testing.T, disk, raw string) {
	t.Helper()
	for _, argv := range [][]string{{"qemu-img", "check", "-q", disk}, {"qemu-img", "convert", "-O", "raw", disk, raw}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
}

// exportedBase checks that the export of a machine on an image has the files of its
// disk. The exceptions are device nodes and access lists, which meros reports.
func exportedBase(t *testing.T, p *lab.Project, image string) {
	p.Write(t, "constellations/used/manifest.yml", strings.Replace(useFiles["manifest.yml"], "m: {", "m: {base: "+image+", ", 1))
	p.Must(t, "build", "used", "m", "--rootfs-only")
	raw := filepath.Join(t.TempDir(), "raw")
	wholeDisk(t, p.Path("data/disks/used-m.qcow2"), raw)
	want := filesOf(t, raw, 11<<20)
	lab.Time(t, "find", filepath.Join(want, "dev"), "(", "-type", "b", "-o", "-type", "c", ")", "-delete")
	for name, attr := range map[string]string{"opt/listed": "system.posix_acl_access", "opt/shared": "system.posix_acl_default"} {
		if err := unix.Removexattr(filepath.Join(want, name), attr); err != nil {
			t.Fatal(err)
		}
	}
	lab.Time(t, "chmod", "g=", filepath.Join(want, "opt/listed")) // without the list the group has no access
	file, tree := filepath.Join(t.TempDir(), "tar"), t.TempDir()
	p.Must(t, "export", "used", "m", "--format=tar", "--output="+file)
	o := p.Must(t, "export", "used", "m", "--format=tar", "--output="+file) // the second export has the notes as well
	for _, note := range []string{"the device nodes of its base (", ", such as /dev/console) are not in a tar", "the access lists of its base (2, such as /opt/listed) are not in a tar"} {
		if !strings.Contains(o.Stderr, note) {
			t.Errorf("there is no note %q:\n%s", note, o.Stderr)
		}
	}
	if o := p.Must(t, "export", "used", "m", "--format=qcow2", "--output="+file+".qcow2"); strings.Contains(o.Stderr, "are not in a") {
		t.Errorf("the export of a disk has the notes\n%s", o.Stderr)
	}
	lab.Time(t, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", file, "-C", tree)
	c := everything
	c.times = false // a layer has no time later than the lock
	differingFiles(t, want, tree, c, nil)
}

// filesOf checks the file system that begins at the offset of a file, and returns a
// directory with a copy of its files.
func filesOf(t *testing.T, raw string, offset int64) string {
	t.Helper()
	lab.Need(t, "fuse2fs", "tar", "unshare", "e2fsck")
	if out, err := exec.Command("e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", raw, offset)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	to, mnt := t.TempDir(), t.TempDir()
	const script = `set -e
mount --make-rprivate /
fuse2fs -o ro,fakeroot,offset="$1" "$2" "$3" >/dev/null 2>&1
tar -C "$3" --acls --xattrs --xattrs-include='*' -c . | tar -C "$4" --acls --xattrs --xattrs-include='*' --numeric-owner -x -p
umount "$3"`
	if out, err := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", fmt.Sprint(offset), raw, mnt, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return to
}

// counts selects the metadata that counts in a comparison of files.
type counts struct {
	mask              uint32 // the bits of the mode that count
	attributes, times bool
}

var everything = counts{^uint32(0), true, true}

// differingFiles checks that two trees are equal, except for the files in changed
// and those that have a machine's name. changed has the text of each changed file,
// or "" if got must not have it.
func differingFiles(t *testing.T, want, got string, c counts, changed map[string]string) {
	t.Helper()
	personal := map[string]bool{"etc/hosts": true, "lost+found": true}
	seen := make(map[string]bool)
	for _, root := range []string{want, got} {
		filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(root, file)
			if seen[name] || name == "." {
				return nil
			}
			seen[name] = true
			text, isChanged := changed[name]
			switch {
			case isChanged && text == "":
				if _, err := os.Lstat(filepath.Join(got, name)); err == nil {
					t.Errorf("%s still exists", name)
				}
			case isChanged:
				if now, err := os.ReadFile(filepath.Join(got, name)); err != nil || string(now) != text {
					t.Errorf("%s has %q, error %v", name, now, err)
				}
			case personal[name] || strings.HasPrefix(name, "etc/systemd/"):
			default:
				if a, b := described(t, filepath.Join(want, name), c), described(t, filepath.Join(got, name), c); a != b {
					t.Errorf("%s is %q, want %q", name, b, a)
				}
			}
			return nil
		})
	}
	if len(seen) < 1000 {
		t.Errorf("compared only %d files", len(seen))
	}
}

// described returns the metadata that tar records for a file, and the digest of
// its content. It leaves out the time of a directory, which every change in the
// directory sets.
func described(t *testing.T, file string, c counts) string {
	t.Helper()
	fi, err := os.Lstat(file)
	if err != nil {
		return "missing"
	}
	st := fi.Sys().(*syscall.Stat_t)
	said := fmt.Sprintf("%o %d:%d", st.Mode&c.mask, st.Uid, st.Gid)
	switch fi.Mode().Type() {
	case 0:
		sum, err := fileDigest(file)
		if err != nil {
			t.Fatal(err)
		}
		said += fmt.Sprintf(" %d bytes %.8s", st.Size, sum)
	case fs.ModeSymlink:
		to, err := os.Readlink(file)
		if err != nil {
			t.Fatal(err)
		}
		said += " to " + to
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		said += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if c.times && !fi.IsDir() {
		said += fmt.Sprintf(" of %d", st.Mtim.Sec)
	}
	if c.attributes {
		said += " " + attributesOf(t, file)
	}
	return said
}

// attributesOf returns a file's extended attributes, sorted, without the SELinux
// label that a host may give every file.
func attributesOf(t *testing.T, file string) string {
	t.Helper()
	b := make([]byte, 1<<16) // XATTR_LIST_MAX, xattr(7)
	n, err := unix.Llistxattr(file, b)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for name := range strings.FieldsFuncSeq(string(b[:n]), func(r rune) bool { return r == 0 }) {
		if name == "security.selinux" {
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(file, name, value)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name+"="+string(value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// patchedFiles checks that got has the files of foreignTree with the changes of
// useFiles.
func patchedFiles(t *testing.T, tree, got string) {
	t.Helper()
	differingFiles(t, tree, got, everything, map[string]string{
		"etc/motd": "patched\n", "srv/new": "new\n", "etc/hooked": readFile(t, filepath.Join(tree, "etc/debian_version")), "etc/issue.net": "", "etc/hostname": "m\n",
		"etc/skel": "", "etc/skel/.bashrc": "", "etc/skel/.profile": "", "etc/skel/.bash_logout": "", "etc/labelled": "labelled\n",
	})
	if got := attributesOf(t, filepath.Join(got, "etc/hooked")); got != "security.capability="+netRaw+" user.hook=h" {
		t.Errorf("the file that got attributes from a hook has %q", got)
	}
	one, err := os.Stat(filepath.Join(got, "etc/hooked"))
	two, lerr := os.Stat(filepath.Join(got, `etc/systemd/hard\x2dlink`))
	if err != nil || lerr != nil || !os.SameFile(one, two) || one.Sys().(*syscall.Stat_t).Nlink != 2 {
		t.Errorf("the file with two names is %+v and %+v, errors %v, %v", one, two, err, lerr)
	}
	one, err = os.Stat(filepath.Join(got, "etc/debian_version"))
	two, lerr = os.Stat(filepath.Join(got, "etc/systemd/again"))
	if err != nil || lerr != nil || !os.SameFile(one, two) || one.Sys().(*syscall.Stat_t).Nlink != 2 {
		t.Errorf("the file of the image that got a second name is %+v and %+v, errors %v, %v", one, two, err, lerr)
	}
	labelled := filepath.Join(got, "etc/labelled")
	label := make([]byte, 64)
	n, err := unix.Getxattr(labelled, "security.selinux", label)
	if fi, serr := os.Stat(labelled); err != nil || serr != nil || string(label[:n]) != "system_u:object_r:etc_t:s0\x00" || fi.Mode() != 0o640 {
		t.Errorf("the file with a new mode has the label %q, errors %v, %v", label[:n], err, serr)
	}
}

// TestUseBoots boots a machine on the image that the manifest names.
func TestUseBoots(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-x86_64", "ssh", "fuse2fs", "sfdisk")
	p := lab.Built(t, "from", "used")
	p.Write(t, "constellations/from/manifest.yml", bootableManifest)
	p.Must(t, "build", "from")
	old := p.Path("constellations/used/old.vmdk")
	if out, err := exec.Command("qemu-img", "convert", "-O", "vmdk", p.Path("data/disks/from-m.qcow2"), old).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before, err := fileDigest(old)
	if err != nil {
		t.Fatal(err)
	}
	p.Write(t, "constellations/used/manifest.yml", "virtual_machines:\n  m: {base: old.vmdk, memory: 512M, cpus: 1, disk_size: 2G}\n")
	startUsed(t, p)
	out := p.Must(t, "connect", "used", "m", "--", "cat /etc/motd; hostname; df --output=size -BM / | tail -1").Stdout
	f := strings.Fields(out)
	if len(f) != 3 || f[0] != "patched" || f[1] != "m" || len(f[2]) != len("1900M") {
		t.Errorf("the machine printed %q", out)
	}
	if after, err := fileDigest(old); err != nil || after != before {
		t.Errorf("the image has changed, error %v", err)
	}
	filesOf(t, soundDisk(t, p.Path("data/disks/used-m.qcow2")), 1<<20)
}

// startUsed gives the machine a file and starts it. The machine stops when the
// test ends.
func startUsed(t *testing.T, p *lab.Project) {
	t.Helper()
	p.Write(t, "constellations/used/m/includes.chroot/etc/motd", "patched\n")
	t.Cleanup(func() {
		p.Run(t, "shutdown", "used", "--wait=0")
		settled(t, p.Root) // the shared ssh connection ends shortly after the machine
	})
	p.Must(t, "init", "used")
}
