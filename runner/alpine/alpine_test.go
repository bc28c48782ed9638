// This file tests releases, indexes, packages and the setup of systems.

package alpine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"meros/bench/lab"
	"meros/runner/hint"
)

// By default, the mirror and the key are Alpine's own.
func TestDefaults(t *testing.T) {
	if DefaultMirror != "https://dl-cdn.alpinelinux.org/alpine" {
		t.Errorf("the default mirror is %s", DefaultMirror)
	}
	cmd := exec.Command("gpg", "--homedir", t.TempDir(), "--show-keys", "--with-colons")
	cmd.Stdin = bytes.NewReader(ReleaseKey)
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		lab.Skip(t, "needs gpg")
	}
	if err != nil || !strings.Contains(string(out), "\nfpr:::::::::0482D84022F52DF1C4E7CD43293ACD0907D9495A:\n") || strings.Count(string(out), "pub:") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}

const sampleReleases = `---
-
  branch: v3.20
  arch: x86_64
  version: 3.20.3
  flavor: alpine-virt
  file: alpine-virt-3.20.3-x86_64.iso
-
  branch: v3.20
  arch: x86_64
  version: 3.20.3
  flavor: alpine-minirootfs
  file: alpine-minirootfs-3.20.3-x86_64.tar.gz
  date: 2024-09-06
  time: 11:39:46
  size: 3490290
  sha256: 3b8d54b8ef6dc0a3d4b83c5e5b9d7d4ba3b8d54b8ef6dc0a3d4b83c5e5b9d7d4
`

func TestParseReleases(t *testing.T) {
	r, err := ParseReleases([]byte(sampleReleases), "x86_64")
	if err != nil || r.File != "v3.20/releases/x86_64/alpine-minirootfs-3.20.3-x86_64.tar.gz" || r.Date.Unix() != 1725622786 || r.Size != 3490290 {
		t.Errorf("%+v, %v", r, err)
	}
	for old, replaced := range map[string]string{
		"minirootfs-3.20.3-x86_64.tar.gz": "../../x.tar.gz", "sha256: 3b": "sha256: zz", "size: 3490290": "size: -1", "branch: v3.20\n  arch: x86_64\n  version: 3.20.3\n  flavor: alpine-minirootfs": "branch: ..\n  arch: x86_64\n  version: 3.20.3\n  flavor: alpine-minirootfs",
		"date: 2024": "date: x",
	} {
		if r, err := ParseReleases([]byte(strings.Replace(sampleReleases, old, replaced, 1)), "x86_64"); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %+v, %v", replaced, r, err)
		}
	}
	if _, err := ParseReleases([]byte(sampleReleases), "aarch64"); err == nil {
		t.Error("found one for another architecture")
	}
}

func FuzzReleases(f *testing.F) {
	f.Add([]byte(sampleReleases))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseReleases(b, "x86_64"); err == nil && (!filepath.IsLocal(r.File) || r.Size <= 0) {
			t.Errorf("%+v", r)
		}
	})
}

// gzipped returns a gzip member with a small archive in it.
func gzipped(files map[string]string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range files {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))})
		io.WriteString(w, text)
	}
	w.Flush()
	z.Close()
	return b.Bytes()
}

const sampleIndex = `C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=
P:hello
V:1.2-r3
A:x86_64
S:8515
D:musl so:libc.musl-x86_64.so.1

C:Q1yY8lhMF1VhgegJgkcXfqaNabDJw=
P:busybox
V:1.36.1-r29
S:1
`

func TestReadIndex(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	index := gzipped(map[string]string{"APKINDEX": sampleIndex})
	one, two := sha1.Sum(index), sha256.Sum256(index)
	sig1, _ := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA1, one[:])
	sig2, _ := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, two[:])
	der, _ := x509.MarshalPKIXPublicKey(&key.PublicKey)
	keys := make(Keys)
	if err := keys.Add("/etc/apk/keys/k.rsa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil {
		t.Fatal(err)
	}
	for name, sig := range map[string]string{".SIGN.RSA.k.rsa.pub": string(sig1), ".SIGN.RSA256.k.rsa.pub": string(sig2)} {
		signed := slices.Concat(gzipped(map[string]string{name: sig}), index)
		got, err := ReadIndex(signed, keys)
		if p := got["hello 1.2-r3"]; err != nil || p.File() != "hello-1.2-r3.apk" || p.Size != 8515 || fmt.Sprintf("%x", p.Control[:3]) != "a8a719" || len(got) != 2 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if _, err := ReadIndex(signed, Keys{}); !errors.Is(err, ErrUnsigned) {
			t.Errorf("%s without its key: %v", name, err)
		}
		signed[len(signed)-1] ^= 1
		if _, err := ReadIndex(signed, keys); err == nil || errors.Is(err, ErrUnsigned) {
			t.Errorf("%s, changed: %v", name, err)
		}
	}
	for name, test := range map[string]struct {
		file       []byte
		want, hint string
	}{
		"unsigned":             {index, "not signed", "abuild-sign"},
		"unsigned, in parts":   {slices.Concat(gzipped(map[string]string{"DESCRIPTION": "x"}), index), "not signed", "abuild-sign"},
		"another kind":         {slices.Concat(gzipped(map[string]string{".SIGN.DSA.k.rsa.pub": string(sig1)}), index), `not signed with a known key, but with ["k.rsa.pub"]`, "`keys:` in the manifest"},
		"signature of nothing": {gzipped(map[string]string{".SIGN.RSA.k.rsa.pub": string(sig1)}), "the signature of k.rsa.pub is wrong", ""},
		"nothing":              {nil, "not an APKINDEX.tar.gz, but an empty file", ""},
		"text":                 {[]byte("hello"), "not an APKINDEX.tar.gz: ", ""},
	} {
		if _, err := ReadIndex(test.file, keys); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(hint.Of(err), test.hint) {
			t.Errorf("%s: %v (%s), want %q and the hint %q", name, err, hint.Of(err), test.want, test.hint)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add(sampleIndex)
	f.Add("P:..\nV:1\nS:1\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseIndex(strings.NewReader(text))
		for key, p := range all {
			if err == nil && (!filepath.IsLocal(p.File()) || key != p.Name+" "+p.Version) {
				t.Errorf("%q: %+v", key, p)
			}
		}
	})
}

func FuzzPackage(f *testing.F) {
	control := gzipped(map[string]string{".PKGINFO": "pkgname = a\npkgver = 1\ndatahash = x\n"})
	f.Add(slices.Concat(control, gzipped(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := Package{Size: int64(len(b))}
		if p.CheckPackage(b) == nil {
			t.Error("a package without a digest was accepted")
		}
	})
}

func TestSimulated(t *testing.T) {
	got, err := Simulated("(1/3) Installing musl-utils (1.2.5-r1)\n( 2/12) Upgrading busybox (1.36.1-r29 -> 1.36.1-r30)\nExecuting busybox-1.36.1-r30.trigger\n(3/3) Installing hello (1.2-r3)\nOK: 8 MiB in 16 packages\n")
	if want := []string{"musl-utils 1.2.5-r1", "busybox 1.36.1-r30", "hello 1.2-r3"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Simulated("(1/1) Purging busybox (1.36.1-r29)\n"); err == nil {
		t.Error("apk would remove a part of the system, and there is no error")
	}
	const failed = "ERROR: unable to select packages:\n  foo (no such package):\n    required by: world[foo]\n"
	if got := missing(failed); !slices.Equal(got, []string{"foo"}) {
		t.Errorf("%q", got)
	}
	if got := complaint(failed); got != "foo (no such package): required by: world[foo]" {
		t.Errorf("%q", got)
	}
}

// Setup chooses the init by the files of the system.
func TestSetup(t *testing.T) {
	tree := func(files ...string) string {
		dir := t.TempDir()
		for _, f := range files {
			if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(f)), 0o755), os.WriteFile(filepath.Join(dir, f), []byte("x\n"), 0o755)); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	plain := tree("bin/busybox", "etc/inittab")
	if err := Setup(plain, ""); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(plain, "etc/inittab")); string(b) != inittab {
		t.Errorf("inittab is %q", b)
	}
	for _, name := range []string{"etc/init.d/rcS", "etc/init.d/rcK", pressed} {
		if fi, err := os.Stat(filepath.Join(plain, name)); err != nil || fi.Mode().Perm() != 0o755 {
			t.Errorf("%v, %v", fi, err)
		}
	}
	if err := Setup(tree("bin/busybox"), "openrc"); err == nil || !strings.Contains(err.Error(), "the package openrc") {
		t.Errorf("%v", err)
	}
	full := tree("sbin/openrc", "etc/inittab", "etc/init.d/sshd", "etc/init.d/networking", "etc/init.d/odd")
	for range 2 { // the second time, the links exist
		if err := Setup(full, ""); err != nil {
			t.Fatal(err)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(full, "etc/inittab")); string(b) != "x\n"+serial+button {
		t.Errorf("inittab is %q", b)
	}
	if b, _ := os.ReadFile(filepath.Join(full, "etc/conf.d/sshd")); string(b) != hostKeys {
		t.Errorf("conf.d/sshd is %q", b)
	}
	links, _ := filepath.Glob(filepath.Join(full, "etc/runlevels/*/*"))
	if len(links) != 3 {
		t.Errorf("%q", links)
	}
	if to, err := os.Readlink(filepath.Join(full, "etc/runlevels/default/sshd")); err != nil || to != "/etc/init.d/sshd" {
		t.Errorf("%q, %v", to, err)
	}
	bare := tree("bin/busybox", "sbin/openrc", "etc/inittab", "etc/init.d/sshd")
	if err := Setup(bare, "busybox"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(bare, "etc/inittab")); string(b) != inittab {
		t.Errorf("with openrc and the setup busybox, inittab is %q", b)
	}
	heard := tree("sbin/openrc", "etc/inittab", "etc/init.d/acpid")
	if err := Setup(heard, "openrc"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(heard, "etc/inittab")); string(b) != "x\n"+serial {
		t.Errorf("with the service acpid, inittab is %q", b)
	}
	if to, err := os.Readlink(filepath.Join(heard, "etc/runlevels/boot", mountPoints)); err != nil || to != "/etc/init.d/mountpoints" {
		t.Errorf("%q, %v", to, err)
	}
	// A link may lead out of the tree.
	outside := t.TempDir()
	trap := tree("bin/busybox")
	if err := os.Symlink(outside, filepath.Join(trap, "etc")); err != nil {
		t.Fatal(err)
	}
	if err := Setup(trap, ""); err == nil {
		t.Error("Setup wrote through a link")
	}
	if found, _ := os.ReadDir(outside); len(found) > 0 {
		t.Errorf("found %v outside of the tree", found)
	}
}
