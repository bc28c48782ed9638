// This file tests the files that give a system its identity, hostile trees too.

package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/bench/lab"
	"meros/runner/layer"
)

func debian() Accounts {
	return Accounts{
		"etc/passwd":     []byte("root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/bin/sh\nold:x:1000:100::/srv/old:/bin/sh\n"),
		"etc/group":      []byte("root:x:0:\nwww-data:x:33:\nstaff:x:1001:\n"),
		"etc/shadow":     []byte("root:*:19000:0:99999:7:::\n"),
		"etc/gshadow":    []byte("root:*::"), // no newline at the end
		"etc/skel/.prof": []byte("PATH=x\n"),
	}
}

func TestAddUser(t *testing.T) {
	for _, test := range []struct {
		name     string
		uid, gid int
		home     string
	}{
		{"new", 1001, 1000, "/home/new"},
		{"staff", 1001, 1001, "/home/staff"}, // the group exists
		{"old", 1000, 100, "/srv/old"},
		{"root", 0, 0, "/root"},
	} {
		a := debian()
		uid, gid, home, err := a.AddUser(test.name, "/bin/bash", 19500)
		if err != nil || uid != test.uid || gid != test.gid || home != test.home {
			t.Errorf("%s: %d:%d %s, %v", test.name, uid, gid, home, err)
		}
		before := string(a["etc/passwd"])
		if _, _, _, err := a.AddUser(test.name, "/bin/bash", 19500); err != nil || string(a["etc/passwd"]) != before {
			t.Errorf("%s: added again: %v", test.name, err)
		}
	}
	a := debian()
	if _, _, _, err := a.AddUser("new", "/bin/bash", 19500); err != nil {
		t.Fatal(err)
	}
	for file, line := range map[string]string{
		"etc/passwd": "\nnew:x:1001:1000::/home/new:/bin/bash\n", "etc/group": "\nnew:x:1000:\n",
		"etc/shadow": "\nnew:*:19500:0:99999:7:::\n", "etc/gshadow": "root:*::\nnew:!::\n",
	} {
		if !strings.HasSuffix(string(a[file]), line) {
			t.Errorf("%s is %q, without %q", file, a[file], line)
		}
	}
}

func TestLookup(t *testing.T) {
	a := debian()
	if id, err := a.Lookup("group", "www-data"); id != 33 || err != nil {
		t.Errorf("%d, %v", id, err)
	}
	if _, err := a.Lookup("user", "nobody"); err == nil || err.Error() != `the system has no user "nobody"` {
		t.Errorf("%v", err)
	}
}

// Read returns exactly the accounts that WriteAccounts wrote.
func TestAccountsArchive(t *testing.T) {
	tree := t.TempDir()
	a := debian()
	for name, b := range a {
		file := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(tree, "etc/other"), []byte("x"), 0o644),
		os.Remove(filepath.Join(tree, "etc/gshadow")),
		os.Symlink("/etc/shadow", filepath.Join(tree, "etc/gshadow")),
	); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteAccounts(&b, tree); err != nil {
		t.Fatal(err)
	}
	got := make(Accounts)
	if err := got.Read(&b); err != nil {
		t.Fatal(err)
	}
	delete(a, "etc/gshadow") // the link leads to the host's own file
	if fmt.Sprint(got) != fmt.Sprint(a) {
		t.Errorf("%q, want %q", got, a)
	}
}

// A tree with traps in place of account files gives its regular files at once, and
// nothing of the host.
func TestHostileAccounts(t *testing.T) {
	tree, outside := t.TempDir(), t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600),
		os.MkdirAll(filepath.Join(tree, "etc"), 0o755),
		os.Symlink(outside, filepath.Join(tree, "etc/skel")),
		os.Symlink("/dev/zero", filepath.Join(tree, "etc/passwd")),
		unix.Mkfifo(filepath.Join(tree, "etc/group"), 0o644),
		os.WriteFile(filepath.Join(tree, "etc/shadow"), make([]byte, maxAccountFile+1), 0o644),
		os.WriteFile(filepath.Join(tree, "etc/subuid"), []byte("me:1:2\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteAccounts(&b, tree); err != nil {
		t.Fatal(err)
	}
	got := make(Accounts)
	if err := got.Read(&b); err != nil || len(got) != 1 || string(got["etc/subuid"]) != "me:1:2\n" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := ReadAccounts(tree); err != nil || len(got) != 1 {
		t.Errorf("%q, %v", got, err)
	}
	os.Remove(filepath.Join(tree, "etc/skel"))
	if err := errors.Join(os.MkdirAll(filepath.Join(tree, "etc/ssh"), 0o755), os.RemoveAll(filepath.Join(tree, "etc/ssh")), unix.Mkfifo(filepath.Join(tree, "etc/ssh"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := Settle(tree); err != nil {
		t.Error(err)
	}
	if err := WriteLayer(io.Discard, []File{{Path: "/x"}}, time.Time{}, nil); err == nil {
		t.Error("accepted an absolute path")
	}
}

// list returns the entries of an archive, one a line.
func list(t *testing.T, archive io.Reader) (lines []string) {
	t.Helper()
	for tr := tar.NewReader(archive); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(tr)
		lines = append(lines, fmt.Sprintf("%04o %d:%d %s %s%s", h.Mode, h.Uid, h.Gid, h.Name, h.Linkname, b))
	}
}

// Read drops the files that a layer removes.
func TestAccountsOfALayer(t *testing.T) {
	lab.NeedRoot(t)
	tree := t.TempDir()
	at := func(name string) string { return filepath.Join(tree, name) }
	if err := errors.Join(os.MkdirAll(at("etc/skel"), 0o755), unix.Setxattr(at("etc/skel"), "user.overlay.opaque", []byte("y"), 0), os.WriteFile(at("etc/skel/new"), []byte("n"), 0o644),
		unix.Mknod(at("etc/hosts"), unix.S_IFCHR, 0)); err != nil {
		t.Fatal(err)
	}
	read := func(a Accounts) Accounts {
		t.Helper()
		var b bytes.Buffer
		if err := errors.Join(WriteAccounts(&b, tree), a.Read(&b)); err != nil {
			t.Fatal(err)
		}
		return a
	}
	below := func() Accounts {
		return Accounts{"etc/hosts": []byte("10.0.0.1 old\n"), "etc/skel/old": []byte("o"), "etc/passwd": []byte("p")}
	}
	want := map[string]string{"etc/skel/new": "n", "etc/passwd": "p"}
	check := func(got Accounts) {
		t.Helper()
		if len(got) != len(want) {
			t.Errorf("%q", got)
		}
		for name, text := range want {
			if string(got[name]) != text {
				t.Errorf("%s is %q, want %q", name, got[name], text)
			}
		}
	}
	check(read(below()))
	// The layer removes one file and replaces a directory.
	if err := errors.Join(os.RemoveAll(at("etc/skel")), os.MkdirAll(at("etc/skel/dir"), 0o755), unix.Setxattr(at("etc/skel/dir"), "user.overlay.opaque", []byte("y"), 0), unix.Mknod(at("etc/skel/old"), unix.S_IFCHR, 0), os.WriteFile(at("etc/skel/new"), []byte("n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	check(read(below()))
	if err := errors.Join(os.RemoveAll(at("etc/skel")), unix.Mknod(at("etc/skel"), unix.S_IFCHR, 0)); err != nil {
		t.Fatal(err)
	}
	delete(want, "etc/skel/new")
	check(read(below()))
}

// Existing directories stay unchanged, and so do links in their place: files below
// such a link are written to its target within the tree.
func TestPersonalLayerOver(t *testing.T) {
	lab.NeedRoot(t)
	tree := t.TempDir()
	etc, then := filepath.Join(tree, "etc"), time.Unix(5, 0)
	if err := errors.Join(os.Mkdir(etc, 0o755), os.Symlink("../../etc/../var/home", filepath.Join(tree, "home")), os.Symlink("/loop", filepath.Join(tree, "loop")), os.Chmod(etc, 0o2750|os.ModeSetgid), os.Chown(etc, 7, 9), unix.Setxattr(etc, "user.dir", []byte("d"), 0), os.Chtimes(etc, then, then)); err != nil {
		t.Fatal(err)
	}
	base, err := os.OpenRoot(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	var b bytes.Buffer
	describe := func(name string) (*tar.Header, error) { return layer.Describe(base, name) }
	if err := WriteLayer(&b, []File{{Path: "etc/hostname", Mode: 0o644}, {Path: "home/me/x", Mode: 0o644}}, time.Unix(9, 0), describe); err != nil {
		t.Fatal(err)
	}
	h, err := tar.NewReader(bytes.NewReader(b.Bytes())).Next()
	if err != nil || h.Name != "etc/" || h.Mode != 0o2750 || h.Uid != 7 || h.Gid != 9 || !h.ModTime.Equal(then) || h.PAXRecords["SCHILY.xattr.user.dir"] != "d" {
		t.Errorf("%+v, %v", h, err)
	}
	if err := WriteLayer(io.Discard, []File{{Path: "loop/x"}}, time.Unix(1, 0), describe); err == nil || !strings.Contains(err.Error(), "/loop/x: too many links") {
		t.Errorf("a link to itself: %v", err)
	}
	if got, want := strings.Join(list(t, &b), "\n"), "2750 7:9 etc/ \n0644 0:0 etc/hostname \n0755 0:0 var/ \n0755 0:0 var/home/ \n0755 0:0 var/home/me/ \n0644 0:0 var/home/me/x "; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// An archive of directories gives the same layer as the tree itself.
func TestDirectories(t *testing.T) {
	lab.NeedRoot(t)
	tree := t.TempDir()
	at := func(name string) string { return filepath.Join(tree, name) }
	for _, dir := range []string{"etc/systemd", "var/home", "srv", "far/private", "far/home"} {
		if err := os.MkdirAll(at(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("/var/home", at("home")), os.Symlink("far", at("data")), os.Symlink("../home", at("far/private/me")), os.Chmod(at("far/private"), 0o750), os.Chmod(at("far/home"), 0o700), os.Chmod(at("var/home"), 0o711), os.Chown(at("etc"), 7, 9), os.WriteFile(at("lib"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	seen := func(name string) (*tar.Header, error) { return layer.Describe(root, name) }
	var archive, want, got bytes.Buffer
	if err := WriteDirectories(&archive, seen, Accounts{"etc/passwd": []byte("me:x:1000:1000::/data/private/me:/bin/sh\nbin:x:1:1::/srv:/bin/sh\n")}.Homes(), time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(list(t, bytes.NewReader(archive.Bytes())), ""); strings.Contains(all, "srv") || strings.Contains(all, "lib") {
		t.Errorf("the archive has %s", all)
	}
	known, err := ReadDirectories(&archive)
	if err != nil {
		t.Fatal(err)
	}
	files := []File{{Path: "etc/systemd/network/x", Mode: 0o644}, {Path: "home/me/x", Mode: 0o644}, {Path: "data/private/me", Dir: true, Mode: 0o700}, {Path: "data/private/me/.profile", Mode: 0o644}, {Path: "home/home", Link: "../var/home/home"}}
	if err := errors.Join(WriteLayer(&want, files, time.Unix(9, 0), seen), WriteLayer(&got, files, time.Unix(9, 0), known)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("%q, from the tree %q", list(t, &got), list(t, &want))
	}
	all := list(t, &got)
	if w := []string{"0755 7:9 etc/ ", "0755 0:0 etc/systemd/ ", "0755 0:0 etc/systemd/network/ ", "0644 0:0 etc/systemd/network/x ", "0755 0:0 far/ ", "0700 0:0 far/home/ ", "0644 0:0 far/home/.profile ", "0755 0:0 var/ ", "0711 0:0 var/home/ ", "0755 0:0 var/home/me/ ", "0644 0:0 var/home/me/x "}; !slices.Equal(all, w) {
		t.Errorf("got  %q\nwant %q", all, w)
	}
}

func TestPersonalLayer(t *testing.T) {
	files := append(Accounts{hosts: []byte("# of the image\n127.0.0.1 localhost app.local # ours\n10.9.9.9\tmyserver my\n10.0.0.2 db\n\nbroken\n")}.Name("web", "lab", map[string]string{"web": "10.0.0.1", "db": "10.0.0.2"}),
		Network([]Interface{{MAC: "52:54:00:00:00:01", Address: "10.0.0.1/24", Gateway: "10.0.0.254", DNS: "10.0.0.254", Routes: []string{"192.0.2.0/28"}, Via: "10.0.0.253"}, {MAC: "52:54:00:00:00:02"}})...)
	var b bytes.Buffer
	if err := WriteLayer(&b, files, time.Unix(1, 0), nil); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"0755 0:0 etc/ ",
		"0644 0:0 etc/hostname web\n",
		"0644 0:0 etc/hosts 127.0.0.1\tlocalhost\n127.0.1.1\tweb\n::1\tlocalhost\tip6-localhost\tip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n10.0.0.2\tdb\tdb.lab\n127.0.0.1\tapp.local\n10.9.9.9\tmyserver\tmy\n",
		"0755 0:0 etc/systemd/ ",
		"0755 0:0 etc/systemd/network/ ",
		"0644 0:0 etc/systemd/network/10-meros0.network [Match]\nMACAddress=52:54:00:00:00:01\n\n[Network]\nAddress=10.0.0.1/24\nGateway=10.0.0.254\nDNS=10.0.0.254\n\n[Route]\nDestination=192.0.2.0/28\nGateway=10.0.0.253\n",
		"0644 0:0 etc/systemd/network/10-meros1.network [Match]\nMACAddress=52:54:00:00:00:02\n\n[Network]\nDHCP=yes\n",
		"0644 0:0 etc/systemd/network/90-meros-dhcp.network [Match]\nType=ether\n\n[Network]\nDHCP=yes\n",
		"0755 0:0 etc/systemd/system/ ",
		"0755 0:0 etc/systemd/system/multi-user.target.wants/ ",
		"0777 0:0 etc/systemd/system/multi-user.target.wants/systemd-networkd.service /lib/systemd/system/systemd-networkd.service",
	}
	if got := list(t, &b); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Shell returns a login shell that the system has.
func TestShell(t *testing.T) {
	for passwd, want := range map[string]string{
		"root:x:0:0:root:/root:/bin/ash\nbin:x:1:1:bin:/bin:/sbin/nologin\n": "/bin/ash", "": "/bin/sh", "root:x:0:0\n": "/bin/sh", "root:x:0:0:::\n": "/bin/sh",
		"root:x:0:0:root:/root:/usr/sbin/nologin\n": "/bin/sh",
	} {
		if got := (Accounts{"etc/passwd": []byte(passwd)}).Shell(); got != want {
			t.Errorf("%q: %s, want %s", passwd, got, want)
		}
	}
}

// Settle removes everything that differs between two runs of a script, and the
// identity of the system.
func TestSettle(t *testing.T) {
	root := t.TempDir()
	stay := []string{"etc/ssh/sshd_config", "var/log/mine.log", "etc/machine-id"}
	for _, name := range append([]string{
		"etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "var/cache/ldconfig/aux-cache", "var/log/dpkg.log", "var/log/apt/history.log", "var/lib/dbus/machine-id",
	}, stay...) {
		file := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("x"), 0o444)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := Settle(root); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	filepath.WalkDir(root, func(file string, d os.DirEntry, err error) error {
		if !d.IsDir() {
			left = append(left, strings.TrimPrefix(file, root+"/"))
		}
		return err
	})
	slices.Sort(stay)
	if !slices.Equal(left, stay) {
		t.Errorf("left %q, want %q", left, stay)
	}
	if fi, err := os.Stat(filepath.Join(root, "etc/machine-id")); err != nil || fi.Size() != 0 {
		t.Errorf("machine id: %v, %v", fi, err)
	}
	// The first system is empty, the second has links to the host's files.
	if err := Settle(t.TempDir()); err != nil {
		t.Error(err)
	}
	hostile := t.TempDir()
	victim := filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(
		os.WriteFile(victim, []byte("x"), 0o644), os.Mkdir(filepath.Join(hostile, "etc"), 0o755),
		os.Symlink(victim, filepath.Join(hostile, "etc/machine-id")), os.Symlink(filepath.Dir(victim), filepath.Join(hostile, "etc/ssh")),
	); err != nil {
		t.Fatal(err)
	}
	Settle(hostile)
	if b, err := os.ReadFile(victim); err != nil || string(b) != "x" {
		t.Errorf("a file of the host changed to %q, %v", b, err)
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/bash\n"), []byte("root:x:0:\n"), "new")
	f.Fuzz(func(t *testing.T, passwd, group []byte, name string) {
		if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
			return // manifests do not accept such names
		}
		a := Accounts{"etc/passwd": passwd, "etc/group": group}
		uid, _, _, err := a.AddUser(name, "/bin/sh", 1)
		if err != nil {
			return
		}
		if got, err := a.Lookup("user", name); err != nil || got != uid {
			t.Errorf("user %q is %d, looked up %d, %v", name, uid, got, err)
		}
	})
}

func TestFstab(t *testing.T) {
	mounts := []Mount{{"meros0", "/srv", "virtiofs", "ro,nofail", 0}, {"UUID=1-2", "/data", "ext4", "defaults", 2}}
	const lines = "meros0 /srv virtiofs ro,nofail 0 0\nUUID=1-2 /data ext4 defaults 0 2\n"
	for have, want := range map[string]string{"": lines, "/dev/sr0 /cd auto ro 0 0": "/dev/sr0 /cd auto ro 0 0\n" + lines} {
		files := Accounts{fstab: []byte(have)}.Fstab(mounts)
		if len(files) != 1 || files[0].Path != "etc/fstab" || string(files[0].Data) != want {
			t.Errorf("%+v, want %q", files, want)
		}
	}
	if files := (Accounts{fstab: []byte("x")}).Fstab(nil); files != nil {
		t.Errorf("%+v", files)
	}
}

// ifupdown's file has all interfaces and disables the detection of duplicate
// addresses.
func TestInterfaces(t *testing.T) {
	fs := Interfaces([]Interface{
		{MAC: "52:54:00:00:00:01", Address: "10.1.0.5/24", Gateway: "10.1.0.1"},
		{MAC: "52:54:00:00:00:02"},
		{MAC: "52:54:00:00:00:03", Address: "10.2.0.5/28", Routes: []string{"192.0.2.0/28"}, Via: "10.2.0.1"},
	})
	const want = `auto lo
iface lo inet loopback

auto eth0
iface eth0 inet dhcp
	pre-up sysctl -qw net.ipv6.conf.eth0.accept_dad=0 || true

auto eth1
iface eth1 inet static
	pre-up sysctl -qw net.ipv6.conf.eth1.accept_dad=0 || true
	address 10.1.0.5
	netmask 255.255.255.0
	gateway 10.1.0.1

auto eth2
iface eth2 inet dhcp
	pre-up sysctl -qw net.ipv6.conf.eth2.accept_dad=0 || true

auto eth3
iface eth3 inet static
	pre-up sysctl -qw net.ipv6.conf.eth3.accept_dad=0 || true
	address 10.2.0.5
	netmask 255.255.255.240
	up ip route add 192.0.2.0/28 via 10.2.0.1
`
	if len(fs) != 1 || fs[0].Path != "etc/network/interfaces" || string(fs[0].Data) != want {
		t.Errorf("%+v", fs)
	}
}
