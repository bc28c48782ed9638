// This file tests reading, writing and damaging a lock.

package constellations

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func sampleLock() *Lock {
	sum := strings.Repeat("0123456789abcdef", 4)
	pkg := func(name, version string) Package {
		return Package{name, version, "amd64", "debian", "pool/main/" + name[:1] + "/" + name + "/" + name + "_" + version + "_amd64.deb", 1234, sum}
	}
	return &Lock{Sources: []Source{
		{Kind: KernelGit, URL: UpstreamKernel, Ref: "master", Commit: strings.Repeat("0123456789", 4)},
		{Kind: SourceRegistry, URL: "docker://debian:12", Ref: "amd64", SHA256: sum, Layers: []SourceLayer{{sum, 7, sum}, {sum, 8, sum}}},
		{Kind: KernelTarball, URL: "https://mirror.example/linux-6.1.tar.xz", Size: 99, SHA256: sum},
	}, Sections: []SectionLock{
		{Distribution: "alpine", Suite: "latest-stable", Arch: "aarch64", Date: time.Date(2026, 11, 3, 0, 0, 0, 0, time.UTC), Base: []Package{
			{"alpine-minirootfs", "3.20.3", "aarch64", "releases", "v3.20/releases/aarch64/alpine-minirootfs-3.20.3-aarch64.tar.gz", 9, sum},
		}},
		{Distribution: "debian", Suite: "bookworm", Arch: "x86_64", Date: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
			Indexes: []Index{{"debian", "bookworm", sum}, {"security", "bookworm-security", sum}},
			Base:    []Package{pkg("base-files", "12.4+deb12u11"), pkg("libc6", "2.36-9+deb12u10")},
			Sets:    []PackageSet{{[]string{"nginx", "openssh-server"}, []Package{pkg("nginx", "1:1.22.1-9")}}},
			Single:  []Package{pkg("linux-source-6.1", "6.1.153-1")},
			Kernel:  []Package{pkg("linux-image-6.1.0-40-cloud-amd64", "6.1.153-1")}},
		{Distribution: "debian", Suite: "trixie", Arch: "x86_64", Mirror: "http://mirror.example/debian", Date: time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC), Base: []Package{pkg("libc6", "2.41-12")}},
	}}
}

func TestLockRoundTrip(t *testing.T) {
	file := filepath.Join(t.TempDir(), "meros.lock")
	if _, err := ReadLock(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing lock: %v", err)
	}
	l := sampleLock()
	if err := WriteLock(file, l); err != nil {
		t.Fatal(err)
	}
	got, err := ReadLock(file)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, l) {
		t.Errorf("got %+v", got)
	}
	if !bytes.Equal(got.Encode(), l.Encode()) {
		t.Error("encoding is not stable")
	}
	golden(t, "testdata/meros.lock.golden", string(l.Encode()))
	if fi, _ := os.Stat(file); fi.Mode().Perm() != 0o644 {
		t.Errorf("mode %v", fi.Mode())
	}
	if got.Section(Section{"debian", "bookworm", "x86_64", ""}).Set([]string{"nginx", "openssh-server"}) == nil {
		t.Error("Set does not find the set")
	}
}

func TestLockEditedByHand(t *testing.T) {
	good := string(sampleLock().Encode())
	for name, edit := range map[string]func(string) string{
		"truncated line":  func(s string) string { return s[:len(s)-30] + "\n" },
		"path upwards":    func(s string) string { return strings.Replace(s, "pool/main/l", "pool/../../l", 1) },
		"absolute path":   func(s string) string { return strings.Replace(s, " pool/", " /pool/", 1) },
		"short digest":    func(s string) string { return strings.Replace(s, "0123456789abcdef", "0123456789abcde", 1) },
		"other version":   func(s string) string { return strings.Replace(s, "meros-lock 1", "meros-lock 2", 1) },
		"merge conflict":  func(s string) string { return strings.Replace(s, "base\n", "<<<<<<< HEAD\nbase\n", 1) },
		"negative size":   func(s string) string { return strings.Replace(s, " 1234 ", " -1 ", 1) },
		"no base":         func(s string) string { return strings.Replace(s, "base\n", "", 1) },
		"bad date":        func(s string) string { return strings.Replace(s, "date 2026-11-01T12:00:00Z", "date yesterday", 1) },
		"double section":  func(s string) string { return s + "debian bookworm x86_64\n" },
		"shell in a name": func(s string) string { return strings.Replace(s, "package libc6 ", "package $(id) ", 1) },
		"no registry":     func(s string) string { return strings.Replace(s, "docker://debian:12", "docker://-x", 1) },
		"a lost layer":    func(s string) string { return s + "layer 1 2 3\n" },
		"a layer alone":   func(s string) string { return strings.Replace(s, "source oci", "source git", 1) },
		"an empty layer":  func(s string) string { return strings.Replace(s, " 7 ", " 0 ", 1) },
		"empty":           func(string) string { return "" },
	} {
		_, err := ParseLock("meros.lock", []byte(edit(good)))
		errs, ok := err.(*Errors)
		if !ok {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !strings.Contains(errs.Problems[0].Hint, "meros update") {
			t.Errorf("%s: no hint: %v", name, err)
		}
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add(sampleLock().Encode())
	f.Fuzz(func(t *testing.T, src []byte) {
		l, err := ParseLock("meros.lock", src)
		if err != nil {
			return
		}
		again, err := ParseLock("meros.lock", l.Encode())
		if err != nil {
			t.Fatalf("the written lock cannot be read: %v", err)
		}
		if !bytes.Equal(again.Encode(), l.Encode()) {
			t.Error("reading and writing changes the lock")
		}
	})
}

// TestWriteLockKilled checks that a killed writer leaves the lock whole, and that
// UnfinishedLocks finds its temporary file.
func TestWriteLockKilled(t *testing.T) {
	const where = "MEROS_TEST_LOCK"
	lock := &Lock{Sources: []Source{{Kind: KernelTarball, URL: "https://example.org/linux.tar.xz", Size: 1, SHA256: strings.Repeat("0", 64)}}}
	if file := os.Getenv(where); file != "" {
		for {
			if err := WriteLock(file, lock); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "meros.lock")
	for range 100 {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), where+"="+file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := os.Stat(file); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		cmd.Process.Kill()
		cmd.Wait()
		got, err := ReadLock(file)
		if err != nil || string(got.Encode()) != string(lock.Encode()) {
			t.Fatalf("the lock is %v, %v", got, err)
		}
		if left := UnfinishedLocks(dir); len(left) > 0 {
			return
		}
		os.Remove(file)
	}
	t.Error("no writer was killed during a write")
}
