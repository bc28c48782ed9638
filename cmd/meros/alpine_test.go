// This file tests machines of Alpine against a mirror in a directory.

package main

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"meros/bench/lab"
	"meros/runner/alpine"
	"meros/runner/layer"
)

// alpineManifest returns a manifest with one Alpine machine. more is appended to
// the machine's keys.
func alpineManifest(m *lab.AlpineMirror, more string) string {
	return fmt.Sprintf("virtual_machines:\n  m:\n    distribution: alpine\n    mirror: %s\n    keys: [%s, %s]\n    memory: 128M\n    cpus: 1\n%s",
		m.URL(), filepath.Join(m.Keys, lab.AlpineKey), filepath.Join(m.Keys, lab.AlpineRelease), more)
}

// stockMirror returns a mirror with a package that has a dependency, a script and
// a trigger.
func stockMirror(t *testing.T, arch string) *lab.AlpineMirror {
	t.Helper()
	m := lab.NewAlpineMirror(t, arch)
	m.Add(t, lab.APK{Name: "hello-data", Version: "1.0-r0", Files: map[string]string{"usr/share/hello/text": "hello\n"}})
	m.Add(t, lab.APK{
		Name: "hello", Version: "1.2-r3", Depends: "hello-data=1.0-r0 /bin/sh", Files: map[string]string{"usr/bin/hello": "#!/bin/sh\ncat /usr/share/hello/text\n"},
		PostInstall: "#!/bin/sh\nhello > /etc/hello-installed\n", Triggers: "/usr/share/hello", Capable: map[string]string{"usr/bin/hello": netRaw},
	})
	m.Index(t)
	return m
}

// TestAlpine follows an Alpine machine from its lock to its shutdown, as an
// ordinary user. Root builds it again from the same lock.
func TestAlpine(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-x86_64", "e2fsck", "qemu-img", "debugfs")
	p := lab.Downloaded(t, "alp")
	m := stockMirror(t, "x86_64")
	m.AddBoot(t, p, "constellations/alp/meros.lock")
	if err := os.Remove(p.Path("constellations/alp/meros.lock")); err != nil {
		t.Fatal(err)
	}
	old := "{label: old, size_gb: 96M, mount_point: /srv/old, partition: 1, base: \"" + dataImage(t, p, "old.qcow2") + "\"}"
	p.Write(t, "constellations/alp/manifest.yml", alpineManifest(m, "    packages: [hello, openssh-server]\n    user: admin\n    disks: [{label: data, size_gb: 64M, mount_point: /srv/data}, "+old+"]\n"))
	p.Write(t, "constellations/alp/m/includes.chroot/etc/motd", "welcome\n")
	p.Write(t, "constellations/alp/m/hooks/01.chroot", "#!/bin/sh\nset -e\napk info -e hello openssh-server > /etc/hooked\n")
	meros := func(args ...string) *lab.Outcome {
		t.Helper()
		o := lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, args...)))
		if o.Exit != 0 {
			t.Fatalf("meros %q: exit status %d\n%s%s", args, o.Exit, o.Stdout, o.Stderr)
		}
		return o
	}
	meros("lock", "alp")
	lock := readFile(t, p.Path("constellations/alp/meros.lock"))
	for _, want := range []string{
		"\nalpine latest-stable x86_64 file://", "\ndate 2024-09-06T11:39:46Z\n", "\nindex main v3.20 ", "\npackage alpine-minirootfs 3.20.3 x86_64 releases v3.20/releases/x86_64/alpine-minirootfs-3.20.3-x86_64.tar.gz ",
		"\nset hello openssh-server\n", "\nsource image file://", "\npackage hello 1.2-r3 x86_64 main v3.20/main/x86_64/hello-1.2-r3.apk ", "\npackage hello-data 1.0-r0 ", "\nkernel\npackage linux-virt 6.6.52-r0 ",
	} {
		if !strings.Contains(lock, want) {
			t.Errorf("the lock has no %q:\n%s", want, lock)
		}
	}
	o := meros("build", "alp", "--locked")
	t.Logf("locked and built in %v", o.Wall)
	want := disk(t, p, "alp-m")
	soundDisk(t, p.Path("data/disks/alp-m.qcow2"))
	t.Run("tree", func(t *testing.T) { sameTree(t, p.Path("data/disks/alp-m.qcow2"), m.RootFS()) })
	t.Run("rebuilt by root", func(t *testing.T) {
		other := lab.New(t, map[string]string{"constellations/alp/meros.lock": lock, "constellations/alp/manifest.yml": readFile(t, p.Path("constellations/alp/manifest.yml"))})
		other.Write(t, "constellations/alp/m/includes.chroot/etc/motd", "welcome\n")
		other.Write(t, "constellations/alp/m/hooks/01.chroot", readFile(t, p.Path("constellations/alp/m/hooks/01.chroot")))
		other.Must(t, "build", "alp", "--locked")
		if got := disk(t, other, "alp-m"); got != want {
			t.Error("root builds a different disk from the same lock")
		}
		leftovers(t, other)
	})
	t.Run("boot", func(t *testing.T) {
		t.Cleanup(func() {
			lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, "shutdown", "alp", "--wait=0")))
			settled(t, p.Root) // the shared ssh connection ends shortly after the machine
		})
		o := meros("init", "alp")
		t.Logf("ready after %v", o.Wall)
		out := meros("connect", "alp", "m", "--", "cat /proc/1/comm /etc/hostname /etc/motd /etc/hello-installed /etc/hooked /etc/triggered; grep -c ^admin: /etc/passwd; df /srv/data | tail -1 | grep -c /srv/data; cat /srv/old/from; cat /sys/block/vdc/size; hello").Stdout
		if want := "init\nm\nwelcome\nhello\nhello\nopenssh-server\n/usr/share/hello\n1\n1\nanother tool\n196608\nhello\n"; out != want {
			t.Errorf("the machine printed %q, want %q", out, want)
		}
		p.Write(t, "tree/a/b", strings.Repeat("0123456789", 100_000))
		meros("push", "alp", "m", p.Path("tree"), "/tmp/x")
		meros("pull", "alp", "m", "/tmp/x/tree", p.Path("back"))
		if got := readFile(t, p.Path("back/tree/a/b")); got != strings.Repeat("0123456789", 100_000) {
			t.Errorf("the pulled file has %d bytes or other content", len(got))
		}
		meros("connect", "alp", "m", "--", writer)
		if o := meros("shutdown", "alp"); !strings.Contains(o.Stderr, "shut down by its power button") {
			t.Errorf("shutdown printed\n%s", o.Stderr)
		}
		cleanDisk(t, p.Path("data/state/alp/m/disk-data.qcow2"))
	})
	leftovers(t, p)
}

// soundDisk checks an image with qemu-img and its file system with e2fsck. It
// returns the path of a raw copy.
func soundDisk(t *testing.T, file string) (raw string) {
	t.Helper()
	raw = filepath.Join(t.TempDir(), "disk.raw")
	for _, argv := range [][]string{
		{"qemu-img", "check", "-q", file}, {"qemu-img", "convert", "-O", "raw", file, raw},
		{"e2fsck", "-fn", raw + "?offset=1048576"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%q: %v\n%s", argv, err, out)
		}
	}
	return raw
}

// sameTree checks that an image has the files of an archive, except for those
// that a build changes.
func sameTree(t *testing.T, image, archive string) {
	to := filesOf(t, soundDisk(t, image), 1<<20)
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	changed := map[string]bool{ // by the stages packages, setup and personalize
		"etc/hostname": true, "etc/hosts": true, "etc/network/interfaces": true, "etc/apk/repositories": true, "etc/apk/world": true, "etc/inittab": true, "etc/motd": true,
		"etc/fstab": true, "lib/apk/db/installed": true, "lib/apk/db/scripts.tar": true, "lib/apk/db/triggers": true, "etc/passwd": true, "etc/shadow": true, "etc/group": true,
	}
	if got := attributesOf(t, filepath.Join(to, "usr/bin/hello")); got != "security.capability="+netRaw {
		t.Errorf("the program of a package has the attributes %q", got)
	}
	compared := 0
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Clean(h.Name)
		fi, err := os.Lstat(filepath.Join(to, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		st := fi.Sys().(*syscall.Stat_t)
		if int64(st.Mode&0o7777) != h.Mode && h.Typeflag != tar.TypeSymlink || int(st.Uid) != h.Uid || int(st.Gid) != h.Gid {
			t.Errorf("%s has mode %o and owner %d:%d, want %o and %d:%d", name, st.Mode&0o7777, st.Uid, st.Gid, h.Mode, h.Uid, h.Gid)
		}
		if !changed[name] && h.Typeflag != tar.TypeDir && st.Mtim.Sec != h.ModTime.Unix() {
			t.Errorf("%s has the time %d, want %d", name, st.Mtim.Sec, h.ModTime.Unix())
		}
		if got, want := attributesOf(t, filepath.Join(to, name)), recordedAttributes(h); got != want {
			t.Errorf("%s has the attributes %q, want %q", name, got, want)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			want, _ := io.ReadAll(tr)
			if got, err := os.ReadFile(filepath.Join(to, name)); !changed[name] && (err != nil || string(got) != string(want)) {
				t.Errorf("%s has different content, error %v", name, err)
			}
		case tar.TypeLink:
			if of, err := os.Lstat(filepath.Join(to, filepath.Clean(h.Linkname))); err != nil || !os.SameFile(fi, of) {
				t.Errorf("%s is not a hard link to %s, error %v", name, h.Linkname, err)
			}
		case tar.TypeSymlink:
			if got, _ := os.Readlink(filepath.Join(to, name)); got != h.Linkname {
				t.Errorf("%s points to %s, want %s", name, got, h.Linkname)
			}
		}
		compared++
	}
	if compared < 400 {
		t.Errorf("compared only %d entries", compared)
	}
}

// editReleases replaces a text in a mirror's description of a release.
func editReleases(t *testing.T, m *lab.AlpineMirror, release, old, now string) {
	t.Helper()
	file := filepath.Join(m.Dir, release, "releases", m.Arch, "latest-releases.yaml")
	text := readFile(t, file)
	if !strings.Contains(text, old) {
		t.Fatalf("there is no %q in\n%s", old, text)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, old, now)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// recordedAttributes returns the extended attributes that an archive records for
// a file, sorted.
func recordedAttributes(h *tar.Header) string {
	var all []string
	for record, value := range h.PAXRecords {
		if name, ok := layer.Attribute(record); ok {
			all = append(all, name+"="+value)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// TestAlpineMirrorFails checks that meros detects the faults of a mirror before
// it pins anything.
func TestAlpineMirrorFails(t *testing.T) {
	lab.NeedRoot(t)
	flipAt := func(t *testing.T, file string, at int) {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[(len(b)+at)%len(b)] ^= 1
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const good = "    packages: [hello]\n    kernel: bzImage\n"
	for name, test := range map[string]struct {
		more    string
		change  func(t *testing.T, m *lab.AlpineMirror)
		replace [2]string // old and new text in the manifest
		words   []string
	}{
		"no such package":     {strings.Replace(good, "hello", "helo", 1), nil, [2]string{}, []string{"the mirror has no package", "helo", `"hint":"did you mean \"hello\"?`}},
		"no such release":     {good + "    release: v3.2\n", nil, [2]string{}, []string{"the mirror has no release v3.2", `"hint":"did you mean \"v3.20\"?`}},
		"no release there":    {good + "    release: v3.9\n", nil, [2]string{"file://", "served"}, []string{"404", "the mirror has no release v3.9", `"hint":"the mirror has: `, "v3.20"}},
		"no kernel":           {"    packages: [hello]\n", nil, [2]string{}, []string{"no package linux-virt", "`kernel:` in the manifest names another one"}},
		"unknown key":         {good, nil, [2]string{lab.AlpineKey, "other.rsa.pub"}, []string{"APKINDEX.tar.gz", "not signed with a known key", lab.AlpineKey}},
		"another release key": {good, nil, [2]string{lab.AlpineRelease, "x.rsa.pub"}, []string{"alpine-minirootfs-3.20.3-x86_64.tar.gz", "the signature is not good"}},
		"changed index": {good, func(t *testing.T, m *lab.AlpineMirror) {
			flipAt(t, filepath.Join(m.Dir, "v3.20/main/x86_64/APKINDEX.tar.gz"), -20)
		}, [2]string{}, []string{"APKINDEX.tar.gz", "the index was changed"}},
		"changed package": {good, func(t *testing.T, m *lab.AlpineMirror) {
			flipAt(t, filepath.Join(m.Dir, "v3.20/main/x86_64/hello-1.2-r3.apk"), -30)
		}, [2]string{}, []string{"package hello 1.2-r3", "hello-1.2-r3.apk"}},
		"changed root file system": {good, func(t *testing.T, m *lab.AlpineMirror) { flipAt(t, m.RootFS(), -1000) }, [2]string{}, []string{"latest-releases.yaml says"}},
		"wrong size":               {good, func(t *testing.T, m *lab.AlpineMirror) { editReleases(t, m, "v3.20", "  size: 3", "  size: 4") }, [2]string{}, []string{"latest-releases.yaml says 4"}},
		"downgraded":               {good + "    release: v3.20\n", func(t *testing.T, m *lab.AlpineMirror) { editReleases(t, m, "v3.20", "branch: v3.20", "branch: v3.19") }, [2]string{}, []string{"is for v3.19, not for v3.20"}},
		"edge for stable": {good, func(t *testing.T, m *lab.AlpineMirror) {
			editReleases(t, m, "latest-stable", "branch: v3.20", "branch: edge")
		}, [2]string{}, []string{"is for edge, not for latest-stable"}},
		"replayed": {good + "    release: v3.21\n", func(t *testing.T, m *lab.AlpineMirror) {
			if err := os.Rename(filepath.Join(m.Dir, "v3.20"), filepath.Join(m.Dir, "v3.21")); err != nil {
				t.Fatal(err)
			}
			editReleases(t, m, "v3.21", "branch: v3.20", "branch: v3.21")
		}, [2]string{}, []string{`is Alpine \"3.20.3\", but latest-releases.yaml says v3.21`, `"hint":"try another mirror"`}},
		"no signature": {good, func(t *testing.T, m *lab.AlpineMirror) { os.Remove(m.RootFS() + ".asc") }, [2]string{}, []string{"the signature of the release"}},
		"two kernels": {"    packages: [hello, more]\n", func(t *testing.T, m *lab.AlpineMirror) {
			for _, version := range []string{"6.6.9-r0", "6.6.10-r0", "6.6.2-r0"} {
				m.Add(t, lab.APK{Name: alpine.KernelPackage, Version: version, Files: map[string]string{"boot/vmlinuz-virt": version}})
			}
			m.Index(t)
			os.Remove(filepath.Join(m.Dir, "v3.20/main/x86_64/linux-virt-6.6.9-r0.apk"))
			os.Remove(filepath.Join(m.Dir, "v3.20/main/x86_64/linux-virt-6.6.2-r0.apk"))
		}, [2]string{}, []string{`the mirror has no package \"more\"`}}, // the only fault
		"missing package": {good, func(t *testing.T, m *lab.AlpineMirror) {
			os.Remove(filepath.Join(m.Dir, "v3.20/main/x86_64/hello-data-1.0-r0.apk"))
		}, [2]string{}, []string{"hello-data-1.0-r0.apk", "no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := stockMirror(t, "x86_64")
			if test.change != nil {
				test.change(t, m)
			}
			manifest := alpineManifest(m, test.more)
			if test.replace[1] == "served" {
				server := httptest.NewServer(http.FileServer(http.Dir(m.Dir)))
				defer server.Close()
				manifest = strings.Replace(manifest, m.URL(), server.URL, 1)
			} else if test.replace[0] != "" {
				other := lab.NewAlpineMirror(t, "x86_64")
				if err := os.Rename(filepath.Join(other.Keys, lab.AlpineKey), filepath.Join(m.Keys, test.replace[1])); err != nil {
					t.Fatal(err)
				}
				manifest = strings.Replace(manifest, filepath.Join(m.Keys, test.replace[0]), filepath.Join(m.Keys, test.replace[1]), 1)
			}
			p := lab.New(t, map[string]string{"constellations/alp/manifest.yml": manifest})
			fails(t, p.Run(t, "lock", "alp"), 1, append(test.words, "lock alp")...)
			if _, err := os.Stat(p.Path("constellations/alp/meros.lock")); err == nil {
				t.Error("meros wrote a lock")
			}
			leftovers(t, p)
		})
	}
}

// TestAlpineReleases locks and builds every release that a manifest may name. The
// packages are signed with keys that the release itself trusts.
func TestAlpineReleases(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "fuse2fs", "e2fsck", "qemu-img")
	m := stockMirror(t, "x86_64")
	m.TrustKey(t)
	if out, err := exec.Command("cp", "-a", filepath.Join(m.Dir, "v3.20"), filepath.Join(m.Dir, "edge")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	editReleases(t, m, "edge", "branch: v3.20", "branch: edge")
	p := lab.New(t, nil)
	for release, branch := range map[string]string{"latest-stable": "v3.20", "v3.20": "v3.20", "edge": "edge"} {
		t.Run(release, func(t *testing.T) {
			manifest := alpineManifest(m, "    packages: [hello]\n    kernel: bzImage\n    release: "+release+"\n")
			p.Write(t, "constellations/alp/manifest.yml", strings.Replace(manifest, filepath.Join(m.Keys, lab.AlpineKey)+", ", "", 1))
			p.Must(t, "update", "alp")
			lock := readFile(t, p.Path("constellations/alp/meros.lock"))
			for _, want := range []string{"\nalpine " + release + " x86_64 ", "\nindex main " + branch + " ", " main " + branch + "/main/x86_64/hello-1.2-r3.apk "} {
				if !strings.Contains(lock, want) {
					t.Errorf("the lock has no %q:\n%s", want, lock)
				}
			}
			p.Must(t, "build", "alp", "--locked", "--rootfs-only")
			tree := filesOf(t, soundDisk(t, p.Path("data/disks/alp-m.qcow2")), 1<<20)
			if got, want := readFile(t, filepath.Join(tree, "etc/apk/repositories")), m.URL()+"/"+branch+"/main\n"+m.URL()+"/"+branch+"/community\n"; got != want {
				t.Errorf("the machine's repositories are\n%swant\n%s", got, want)
			}
		})
	}
	leftovers(t, p)
}

// dataImage makes an image with one partition that has a file system, and returns
// its URL.
func dataImage(t *testing.T, p *lab.Project, name string) string {
	t.Helper()
	const script = `set -e
mkdir "$1/tree"; echo another tool > "$1/tree/from"
truncate -s 64M "$1/raw"
printf 'label: gpt\n2048,,L\n' | sfdisk -q "$1/raw"
mke2fs -q -t ext4 -E offset=1048576 -d "$1/tree" "$1/raw" 61440k
qemu-img convert -O qcow2 "$1/raw" "$2"
chmod 644 "$2"`
	if out, err := exec.Command("sh", "-c", script, "sh", t.TempDir(), p.Path(name)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return "file://" + p.Path(name)
}

// TestAlpineLockScratch checks that locking works if /tmp is mounted noexec,
// because it runs the release's programs. It also checks that lock removes the
// scratch files of a killed run and its own.
func TestAlpineLockScratch(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "unshare")
	p := lab.New(t, map[string]string{
		"constellations/alp/manifest.yml":     alpineManifest(stockMirror(t, "x86_64"), "    packages: [hello]\n    kernel: bzImage\n"),
		"data/cache/build/run-dead/private/x": "x",
	})
	lock := p.Command(t, "lock", "alp")
	const script = `mount -t tmpfs -o noexec,mode=1777 tmp "$TMPDIR" && exec "$@"`
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", script, "sh"}, lock.Args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	if o := lab.Finish(t, cmd); o.Exit != 0 || !strings.Contains(readFile(t, p.Path("constellations/alp/meros.lock")), "\npackage hello 1.2-r3 ") {
		t.Fatalf("exit status %d\n%s", o.Exit, o.Stderr)
	}
	leftovers(t, p)
}

// TestAlpineHookInstalls checks that a hook with a network can install a package,
// and that meros suggests pinning the package instead. The test runs in a network
// namespace whose only neighbour is a mirror.
func TestAlpineHookInstalls(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "pasta", "ip", "unshare", "fuse2fs")
	m := stockMirror(t, "x86_64")
	const mirror = "198.51.100.2"
	p := lab.New(t, map[string]string{
		"constellations/alp/manifest.yml":        strings.Replace(alpineManifest(m, "    kernel: bzImage\n    hooks: {network: true}\n"), m.URL(), "http://"+mirror, 1),
		"constellations/alp/m/hooks/01.chroot":   "#!/bin/sh\nset -e\napk add hello\n",
		"constellations/alp/m/hooks/02-x.chroot": "#!/bin/sh\nhello > /etc/said\n",
	})
	const script = `set -e
mount -t tmpfs run /run
ip link set lo up
ip netns add neighbour
ip link add outer type veth peer name inner netns neighbour
ip address add 198.51.100.1/24 dev outer
ip link set outer up
ip -n neighbour address add ` + mirror + `/24 dev inner
ip -n neighbour link set inner up
ip route add default via ` + mirror + `
served=/run/served; mkfifo $served
` + serveEnv + `="$1" ip netns exec neighbour "$2" > $served &
trap "kill $!" EXIT
shift 2
read line < $served
"$@"`
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	build := p.Command(t, "build", "alp", "--rootfs-only")
	o := lab.Finish(t, exec.Command("unshare", append([]string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh", m.Dir, exe}, build.Args...)...))
	if o.Exit != 0 {
		t.Fatalf("exit status %d\n%s", o.Exit, o.Stderr)
	}
	if !strings.Contains(o.Stderr, `alp/m: m/hooks/01.chroot installs packages from a network`) || !strings.Contains(o.Stderr, `packages:`) || strings.Contains(o.Stderr, "02-x.chroot installs") {
		t.Errorf("meros printed\n%s", o.Stderr)
	}
	tree := filesOf(t, soundDisk(t, p.Path("data/disks/alp-m.qcow2")), 1<<20)
	for name, want := range map[string]string{"etc/hello-installed": "hello\n", "etc/said": "hello\n", "etc/apk/world": "hello\n", "lib/apk/db/installed": "P:hello\nV:1.2-r3\n"} {
		if got := readFile(t, filepath.Join(tree, name)); !strings.Contains(got, want) {
			t.Errorf("%s has no %q", name, want)
		}
	}
	leftovers(t, p)
}
