// This file tests that only signed archives are used.

package debian

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/bench/lab"
)

// testKey is a key pair of gpg(1) in a directory of its own.
type testKey struct{ home, keyring string }

func newKey(t *testing.T, name string) testKey {
	t.Helper()
	lab.Need(t, "gpg", "gpgv", "apt-get")
	// A short name: gpg-agent creates a socket in it, unix(7).
	home, err := os.MkdirTemp("", "mk")
	if err != nil {
		t.Fatal(err)
	}
	k := testKey{home, filepath.Join(home, name+".gpg")}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	k.gpg(t, "--passphrase", "", "--quick-gen-key", name+"@example.invalid", "ed25519", "sign", "never")
	k.gpg(t, "--output", k.keyring, "--export")
	for _, f := range []string{home, k.keyring} {
		if err := os.Chmod(f, 0o755); err != nil { // apt's downloaders run as another user
			t.Fatal(err)
		}
	}
	return k
}

func (k testKey) gpg(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("gpg", append([]string{"--homedir", k.home, "--batch", "--quiet", "--yes"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("gpg %q: %v\n%s", args, err, out)
	}
}

// signedArchive makes an archive with one package, signed by k. It returns the
// archive and the path of its signed index.
func signedArchive(t *testing.T, k testKey) (dir, inRelease string) {
	t.Helper()
	dir = t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	deb := filepath.Join(t.TempDir(), "foo.deb")
	content := arFile("debian-binary", "2.0\n", "control.tar.gz", gz(tarFile(t, control(goodControl))), "data.tar.gz",
		gz(tarFile(t, tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755})))
	if err := os.WriteFile(deb, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LocalArchive(t.Context(), dir, "bookworm", "amd64", []string{deb}, releaseEpoch); err != nil {
		t.Fatal(err)
	}
	dists := filepath.Join(dir, "dists/bookworm")
	inRelease = filepath.Join(dists, "InRelease")
	k.gpg(t, "--output", inRelease, "--clearsign", filepath.Join(dists, "Release"))
	if err := os.Remove(filepath.Join(dists, "Release")); err != nil {
		t.Fatal(err)
	}
	return dir, inRelease
}

// A resolver believes only indexes that a known key has signed, and checks all
// files that they list.
func TestSignatures(t *testing.T) {
	known, stranger := newKey(t, "known"), newKey(t, "stranger")
	change := func(file, from, to string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			file := filepath.Join(dir, "dists/bookworm", file)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(b), from, to, 1)
			if changed == string(b) {
				t.Fatalf("no %q in %s", from, file)
			}
			if err := os.WriteFile(file, []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		signedBy testKey
		damage   func(*testing.T, string)
		err      string // "" is success
	}{
		"good":     {known, nil, ""},
		"stranger": {stranger, nil, "signed with a key that is not in"},
		"unsigned": {known, func(t *testing.T, dir string) {
			f := filepath.Join(dir, "dists/bookworm/InRelease")
			if err := os.WriteFile(f[:len(f)-len("InRelease")]+"Release", []byte("Suite: bookworm\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			os.Remove(f)
		}, "not signed"},
		"changed index": {known, change("InRelease", "Components: main", "Components: mine main"), "bad signature"},
		"changed packages": {known, func(t *testing.T, dir string) {
			change("main/binary-amd64/Packages", "Package: foo", "Package: fop")(t, dir)
			os.Remove(filepath.Join(dir, "dists/bookworm/main/binary-amd64/Packages.gz"))
		}, "Hash Sum mismatch"},
		"HTML": {known, func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "dists/bookworm/InRelease"), []byte("<!DOCTYPE html><html>Log in</html>\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "not a signed index"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := signedArchive(t, test.signedBy)
			if test.damage != nil {
				test.damage(t, dir)
			}
			work, err := os.MkdirTemp("", "meros-sign-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(work) })
			os.Chmod(work, 0o755)
			r, err := OpenResolver(t.Context(), ResolverOptions{
				Dir: work, Suite: "bookworm", Arch: "amd64", Keyrings: []string{known.keyring},
				Archives: []Archive{{Name: "debian", URL: "file://" + dir, Suites: []string{"bookworm"}, Components: []string{"main"}}},
			})
			switch {
			case test.err == "" && err != nil:
				t.Error(err)
			case test.err == "":
				if want := "[{debian bookworm "; !strings.HasPrefix(fmt.Sprint(r.Indexes()), want) || !r.Date().Equal(releaseEpoch) {
					t.Errorf("%v of %v", r.Indexes(), r.Date())
				}
			case err == nil || !strings.Contains(err.Error(), test.err):
				t.Errorf("%v, want %q", err, test.err)
			}
		})
	}
}
