// This file tests which keys of a manifest may sign an archive.

package pin

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/bench/lab"
	"meros/constellations"
	"meros/runner/debian"
)

// smallArchive makes an archive of one package that key has signed. Its directory
// is readable for apt's own user.
func smallArchive(t *testing.T, key *lab.ReleaseKey) string {
	t.Helper()
	lab.Need(t, "dpkg-deb")
	dir, pkg := worldDir(t), filepath.Join(t.TempDir(), "foo")
	control := "Package: foo\nVersion: 1\nArchitecture: all\nMaintainer: test\nDescription: test\n"
	if err := errors.Join(os.MkdirAll(filepath.Join(pkg, "DEBIAN"), 0o755), os.WriteFile(filepath.Join(pkg, "DEBIAN/control"), []byte(control), 0o644)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("dpkg-deb", "-b", "-Zgzip", pkg, pkg+".deb").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := debian.LocalArchive(t.Context(), dir, "bookworm", "amd64", []string{pkg + ".deb"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	dists := filepath.Join(dir, "dists/bookworm")
	key.Sign(t, "--output", filepath.Join(dists, "InRelease"), "--clearsign", filepath.Join(dists, "Release"))
	if err := os.Remove(filepath.Join(dists, "Release")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// worldDir creates a directory that apt's own user can reach.
func worldDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "meros-archive-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Each of the manifest's keys may sign, whatever its format and the name of its
// file.
func TestKeyrings(t *testing.T) {
	t.Parallel()
	lab.Need(t, "gpg", "apt-get")
	signer, a, b := lab.NewReleaseKey(t), lab.NewReleaseKey(t), lab.NewReleaseKey(t)
	archive, keys := smallArchive(t, signer), t.TempDir()
	armor := func(name string, key *lab.ReleaseKey) string {
		file := filepath.Join(keys, name)
		key.Sign(t, "--armor", "--output", file, "--export")
		return file
	}
	armored, other := armor("armored.key", signer), armor("other.asc", a)
	write := func(name, content string) string {
		file := filepath.Join(keys, name)
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	both := write("both.asc", read(other)+"\n"+read(armored))
	alpine := write("alpine.rsa.pub", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
	for name, c := range map[string]struct {
		keys []string
		err  string // "" is success
	}{
		"one":                {[]string{signer.Keyring}, ""},
		"second":             {[]string{a.Keyring, signer.Keyring}, ""},
		"armored":            {[]string{armored}, ""},
		"armored second":     {[]string{other, armored}, ""},
		"armored and binary": {[]string{a.Keyring, armored, b.Keyring}, ""},
		"two in one":         {[]string{both}, ""},
		"beside Alpine's":    {[]string{alpine, signer.Keyring}, ""},
		"strangers":          {[]string{a.Keyring, other, b.Keyring}, "signed with a key that is not in"},
		"keybox":             {[]string{write("keybox.kbx", "\x00\x00\x00\x20\x01\x01\x00\x02KBXf")}, "is a keybox"},
		"empty":              {[]string{write("empty.gpg", "\n")}, "has no key"},
	} {
		t.Run(name, func(t *testing.T) {
			err := openWith(t, archive, c.keys)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%v, want %q", err, c.err)
			}
		})
	}
}

// openWith opens a resolver with keys from a manifest.
func openWith(t *testing.T, archive string, keys []string) error {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "constellations/k")
	manifest := "virtual_machines:\n  m: {mirror: 'file://" + archive + "', keys: [" + strings.Join(keys, ", ") + "]}\n"
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "manifest.yml"), []byte(manifest), 0o644)); err != nil {
		t.Fatal(err)
	}
	m, err := constellations.Find(root, "k")
	if err != nil {
		t.Fatal(err)
	}
	s := m.Machines[0].Section()
	work := worldDir(t)
	files, err := (&Pinner{Root: root}).keyringsFor(m, s, work)
	if err != nil {
		return err
	}
	archives, err := debian.Archives(s.Distribution, "/", s.Suite, "amd64", s.Mirror)
	if err != nil {
		t.Fatal(err)
	}
	_, err = debian.OpenResolver(t.Context(), debian.ResolverOptions{Dir: work, Archives: archives, Suite: s.Suite, Arch: "amd64", Keyrings: files})
	return err
}
