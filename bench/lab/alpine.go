// This file makes mirrors of Alpine in directories, from the published mini
// root file system and from packages that tests define.

package lab

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
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// AlpineKey is the file name of the key that signs the packages of an
// [AlpineMirror]. AlpineRelease is the file name of the key that signs its
// release.
const (
	AlpineKey     = "test-1234.rsa.pub"
	AlpineRelease = "release.gpg"
)

// AlpineMirror is a mirror of Alpine in a directory, with the layout of a real
// mirror. It has the published mini root file system and packages that tests
// make.
type AlpineMirror struct {
	Dir  string
	Arch string
	Keys string // directory with [AlpineKey] and [AlpineRelease]

	key      *rsa.PrivateKey
	release  *ReleaseKey
	packages []apk
}

// apk is a package's entry in the index.
type apk struct {
	name, version, depends string
	size                   int
	control                [20]byte
}

const alpineVersion = "3.20.3"

// AlpineDir names the environment variable with the directory of the root file
// systems, for tests that run in another place or as another user.
const AlpineDir = "LAB_ALPINE"

// AlpineRootFS returns the path of the published mini root file system. It skips
// the test if the file is missing.
func AlpineRootFS(t testing.TB, arch string) string {
	t.Helper()
	dir := os.Getenv(AlpineDir)
	if dir == "" {
		dir = filepath.Join(moduleDir(t), "..", "shared", "alpine")
	}
	file := filepath.Join(dir, "alpine-minirootfs-"+alpineVersion+"-"+arch+".tar.gz")
	if _, err := os.Stat(file); err != nil {
		Skip(t, "needs a root file system of Alpine: %v", err)
	}
	return file
}

// NewAlpineMirror makes a mirror for an architecture, with an empty repository.
func NewAlpineMirror(t testing.TB, arch string) *AlpineMirror {
	t.Helper()
	Need(t, "gpg", "gpgv")
	file := AlpineRootFS(t, arch)
	rootfs, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := &AlpineMirror{Dir: t.TempDir(), Arch: arch, Keys: t.TempDir()}
	for _, d := range []string{m.Dir, m.Keys} {
		for ; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			os.Chmod(d, 0o755) // for tests that run as another user
		}
	}
	m.makeKeys(t)
	m.publish(t, rootfs)
	if err := os.Symlink("v3.20", filepath.Join(m.Dir, "latest-stable")); err != nil {
		t.Fatal(err)
	}
	m.Index(t)
	return m
}

// publish makes a root file system the newest release.
func (m *AlpineMirror) publish(t testing.TB, rootfs []byte) {
	t.Helper()
	releases := filepath.Join("v3.20", "releases", m.Arch)
	name := filepath.Base(m.RootFS())
	m.write(t, filepath.Join(releases, name), rootfs)
	m.SignRelease(t)
	m.write(t, filepath.Join(releases, "latest-releases.yaml"), fmt.Appendf(nil, `---
-
  title: "Standard"
  branch: v3.20
  arch: %[1]s
  version: %[2]s
  flavor: alpine-standard
  file: alpine-standard-%[2]s-%[1]s.iso
  size: 1
  sha256: %[4]x
-
  title: "Mini root filesystem"
  branch: v3.20
  arch: %[1]s
  version: %[2]s
  flavor: alpine-minirootfs
  file: %[3]s
  iso: %[3]s
  date: 2024-09-06
  time: 11:39:46
  size: %[5]d
  sha256: %[4]x
`, m.Arch, alpineVersion, name, sha256.Sum256(rootfs), len(rootfs)))
}

// TrustKey puts the key that signs the packages beside Alpine's own keys in the
// root file system.
func (m *AlpineMirror) TrustKey(t testing.TB) {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(m.Keys, AlpineKey))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(m.RootFS())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	in := tar.NewReader(z)
	m.publish(t, segment(t, func(w *tar.Writer) {
		for h, err := in.Next(); err != io.EOF; h, err = in.Next() {
			if err == nil {
				err = w.WriteHeader(h)
			}
			if err == nil {
				_, err = io.Copy(w, in)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		member(t, w, "etc/apk/keys/"+AlpineKey, 0o644, key)
	}, true))
}

// URL returns the address of the mirror.
func (m *AlpineMirror) URL() string { return "file://" + m.Dir }

func moduleDir(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

func (m *AlpineMirror) write(t testing.TB, name string, b []byte) {
	t.Helper()
	file := filepath.Join(m.Dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (m *AlpineMirror) makeKeys(t testing.TB) {
	t.Helper()
	var err error
	if m.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&m.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.Keys, AlpineKey), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	m.release = NewReleaseKey(t)
	b, err := os.ReadFile(m.release.Keyring)
	if err == nil {
		err = os.WriteFile(filepath.Join(m.Keys, AlpineRelease), b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ReleaseKey is a key pair of gpg(1) in its own directory.
type ReleaseKey struct {
	Keyring string // file, for gpgv(1)
	home    string
}

// NewReleaseKey makes a key and removes it when the test ends.
func NewReleaseKey(t testing.TB) *ReleaseKey {
	t.Helper()
	// The path is short because gpg-agent puts a socket there, unix(7).
	home, err := os.MkdirTemp("", "mk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	k := &ReleaseKey{filepath.Join(home, AlpineRelease), home}
	k.Sign(t, "--passphrase", "", "--quick-gen-key", "release@example.invalid", "ed25519", "sign", "never")
	k.Sign(t, "--output", k.Keyring, "--export")
	os.Chmod(home, 0o755)
	os.Chmod(k.Keyring, 0o644)
	return k
}

// Sign runs gpg with the key.
func (k *ReleaseKey) Sign(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("gpg", append([]string{"--homedir", k.home, "--batch", "--quiet", "--yes"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("gpg %q: %v\n%s", args, err, out)
	}
}

// RootFS returns the path of the mirror's mini root file system.
func (m *AlpineMirror) RootFS() string {
	return filepath.Join(m.Dir, "v3.20", "releases", m.Arch, "alpine-minirootfs-"+alpineVersion+"-"+m.Arch+".tar.gz")
}

// SignRelease signs the current mini root file system.
func (m *AlpineMirror) SignRelease(t testing.TB) {
	t.Helper()
	m.release.Sign(t, "--armor", "--output", m.RootFS()+".asc", "--detach-sign", m.RootFS())
}

// APK is a package to make.
type APK struct {
	Name, Version string
	Depends       string
	Files         map[string]string // text by path; files below bin, sbin and etc/init.d are executable
	Sources       map[string]string // host files by path; those that the host can execute stay executable
	PostInstall   string            // a script
	Triggers      string            // paths that the trigger watches; it writes /etc/triggered
	Capable       map[string]string // security.capability by path, see capabilities(7)
}

// Add makes a package and puts it into the repository main.
// [AlpineMirror.Index] then lists it.
func (m *AlpineMirror) Add(t testing.TB, p APK) {
	t.Helper()
	data := segment(t, func(w *tar.Writer) { p.writeFiles(t, w) }, true)
	info := fmt.Sprintf("pkgname = %s\npkgver = %s\npkgdesc = of a test\nurl = http://example.invalid\nsize = %d\narch = %s\nlicense = MIT\norigin = %[1]s\n", p.Name, p.Version, len(data), m.Arch)
	for d := range strings.FieldsSeq(p.Depends) {
		info += "depend = " + d + "\n"
	}
	if p.Triggers != "" {
		info += "triggers = " + p.Triggers + "\n"
	}
	info += fmt.Sprintf("datahash = %x\n", sha256.Sum256(data))
	control := segment(t, func(w *tar.Writer) {
		member(t, w, ".PKGINFO", 0o644, []byte(info))
		if p.PostInstall != "" {
			member(t, w, ".post-install", 0o755, []byte(p.PostInstall))
		}
		if p.Triggers != "" {
			member(t, w, ".trigger", 0o755, []byte("#!/bin/sh\necho \"$@\" > /etc/triggered\n"))
		}
	}, false)
	whole := slices.Concat(m.sign(t, control), control, data)
	m.packages = append(m.packages, apk{p.Name, p.Version, p.Depends, len(whole), sha1.Sum(control)})
	m.write(t, filepath.Join("v3.20", "main", m.Arch, p.Name+"-"+p.Version+".apk"), whole)
}

func (p APK) writeFiles(t testing.TB, w *tar.Writer) {
	t.Helper()
	all, programs := make(map[string][]byte), make(map[string]bool)
	for name, text := range p.Files {
		all[name] = []byte(text)
	}
	for name, source := range p.Sources {
		b, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(source)
		if err != nil {
			t.Fatal(err)
		}
		all[name], programs[name] = b, fi.Mode()&0o100 != 0
	}
	dirs := make(map[string]bool)
	for name := range all {
		for d := filepath.Dir(name); d != "."; d = filepath.Dir(d) {
			dirs[d] = true
		}
	}
	var names []string
	for d := range dirs {
		names = append(names, d)
	}
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if dirs[n] {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: n + "/", Mode: 0o755, ModTime: time.Unix(1e9, 0)}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		mode := int64(0o644)
		if programs[n] || strings.Contains(n, "bin/") || strings.HasPrefix(n, "etc/init.d/") {
			mode = 0o755
		}
		if c, ok := p.Capable[n]; ok {
			member(t, w, n, mode, all[n], "SCHILY.xattr.security.capability", c)
			continue
		}
		member(t, w, n, mode, all[n])
	}
}

// member writes a file with the digest that apk requires and further PAX
// records, given as names and values.
func member(t testing.TB, w *tar.Writer, name string, mode int64, b []byte, records ...string) {
	t.Helper()
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(b)), ModTime: time.Unix(1e9, 0), Format: tar.FormatPAX,
		PAXRecords: map[string]string{"APK-TOOLS.checksum.SHA1": fmt.Sprintf("%x", sha1.Sum(b))}}
	for i := 0; i+1 < len(records); i += 2 {
		h.PAXRecords[records[i]] = records[i+1]
	}
	err := w.WriteHeader(h)
	if err == nil {
		_, err = w.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// segment returns a gzip member that contains an archive. Only the last segment
// of a package ends the archive.
func segment(t testing.TB, fill func(*tar.Writer), last bool) []byte {
	t.Helper()
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	w := tar.NewWriter(z)
	fill(w)
	err := w.Flush()
	if last {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sign returns the segment with the signature of another segment.
func (m *AlpineMirror) sign(t testing.TB, signed []byte) []byte {
	t.Helper()
	sum := sha1.Sum(signed)
	sig, err := rsa.SignPKCS1v15(rand.Reader, m.key, crypto.SHA1, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return segment(t, func(w *tar.Writer) { member(t, w, ".SIGN.RSA."+AlpineKey, 0o644, sig) }, false)
}

// Index writes the signed indexes of both repositories.
func (m *AlpineMirror) Index(t testing.TB) {
	t.Helper()
	var text strings.Builder
	for _, p := range m.packages {
		fmt.Fprintf(&text, "C:Q1%s\nP:%s\nV:%s\nA:%s\nS:%d\nI:%d\nT:of a test\nU:http://example.invalid\nL:MIT\no:%[2]s\n", base64.StdEncoding.EncodeToString(p.control[:]), p.name, p.version, m.Arch, p.size, p.size)
		if p.depends != "" {
			fmt.Fprintf(&text, "D:%s\n", p.depends)
		}
		text.WriteString("\n")
	}
	for repository, content := range map[string]string{"main": text.String(), "community": ""} {
		index := segment(t, func(w *tar.Writer) {
			member(t, w, "DESCRIPTION", 0o644, []byte("test\n"))
			member(t, w, "APKINDEX", 0o644, []byte(content))
		}, true)
		m.write(t, filepath.Join("v3.20", repository, m.Arch, "APKINDEX.tar.gz"), slices.Concat(m.sign(t, index), index))
	}
}
