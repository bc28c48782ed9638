// This file tests downloads from mirrors that fail, break off or lie, and locks
// that a person edits.

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/bench/lab"
)

// pinnedLock returns a lock that pins one package of the mirror at url.
func pinnedLock(url, content string) string {
	sum := sha256.Sum256([]byte(content))
	pkg := fmt.Sprintf("package base-files 1 amd64 debian pool/b/base-files_1_amd64.deb %d %x\n", len(content), sum)
	return "meros-lock 1\n\ndebian bookworm x86_64 " + url + "\ndate 2026-01-02T03:04:05Z\nbase\n" + pkg + "kernel\n"
}

// TestMirrorFails checks that the error for each fault of a mirror has the cause
// and the address.
func TestMirrorFails(t *testing.T) {
	lab.NeedRoot(t)
	content := strings.Repeat("0123456789abcdef", 4096)
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		words []string
	}{
		"404":       {http.NotFound, []string{"404", "hint: `meros update` pins the packages that the mirror has now", "hint: a snapshot service of Debian's packages, named by MEROS_SNAPSHOT, may still have it"}},
		"forbidden": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }, []string{"403"}},
		"truncated": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			w.Write([]byte(content[:1000]))
		}, []string{"unexpected EOF"}},
		"wrong digest": {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(strings.ToUpper(content))) }, []string{"sha256"}},
		"too long":     {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(content + "x")) }, []string{"65536"}},
		"html": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.Write([]byte("<!DOCTYPE html><html><body>Please log in to the hotel's network</body></html>"))
		}, []string{"HTML"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(c.serve)
			defer server.Close()
			p := lab.New(t, map[string]string{
				"constellations/far/manifest.yml": "virtual_machines:\n  m: {suite: bookworm, mirror: '" + server.URL + "'}\n",
				"constellations/far/meros.lock":   pinnedLock(server.URL, content),
			})
			o := p.Run(t, "build", "far", "--rootfs-only")
			fails(t, o, 1, append(c.words, "base-files_1_amd64.deb", server.URL)...)
			leftovers(t, p)
		})
	}
}

// TestLocalMirror checks that meros reads pinned packages from a mirror in a
// directory of the host.
func TestLocalMirror(t *testing.T) {
	lab.NeedRoot(t)
	dir := t.TempDir()
	url := "file://" + dir
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "pool/b"), 0o755), os.WriteFile(filepath.Join(dir, "pool/b/base-files_1_amd64.deb"), []byte("content"), 0o644)); err != nil {
		t.Fatal(err)
	}
	p := lab.New(t, map[string]string{
		"constellations/near/manifest.yml": "virtual_machines:\n  m: {suite: bookworm, mirror: '" + url + "'}\n",
		"constellations/near/meros.lock":   pinnedLock(url, "content"),
	})
	o := p.Run(t, "build", "near", "--rootfs-only")
	fails(t, o, 1, `"node":"fetch base-files_1_amd64.deb","outputs"`, "(fetch base-files_1_amd64.deb): is not an ar archive")
}

// TestMirrorDown checks the error for a mirror that does not listen.
func TestMirrorDown(t *testing.T) {
	lab.NeedRoot(t)
	// The socket reserves a port and does not listen.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	var a unix.Sockaddr
	if err == nil {
		a, err = unix.Getsockname(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", a.(*unix.SockaddrInet4).Port)
	p := lab.New(t, map[string]string{
		"constellations/far/manifest.yml": "virtual_machines:\n  m: {suite: bookworm, mirror: '" + url + "'}\n",
		"constellations/far/meros.lock":   pinnedLock(url, "x"),
	})
	fails(t, p.Run(t, "build", "far", "--rootfs-only"), 1, "connection refused", url)
}

// TestMirrorResumes checks that a build continues a download that broke off.
func TestMirrorResumes(t *testing.T) {
	lab.NeedRoot(t)
	content := strings.Repeat("fedcba9876543210", 65536)
	var sent atomic.Int64
	broken := atomic.Bool{}
	broken.Store(true)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			n, _ := w.Write([]byte(content[:len(content)/2]))
			sent.Add(int64(n))
			panic(http.ErrAbortHandler)
		}
		counted := &countingWriter{ResponseWriter: w, n: &sent}
		http.ServeContent(counted, r, "x.deb", time.Time{}, strings.NewReader(content))
	}))
	defer server.Close()
	p := lab.New(t, map[string]string{
		"constellations/far/manifest.yml": "virtual_machines:\n  m: {suite: bookworm, mirror: '" + server.URL + "'}\n",
		"constellations/far/meros.lock":   pinnedLock(server.URL, content),
	})
	if o := p.Run(t, "build", "far", "--rootfs-only"); o.Exit != 1 {
		t.Fatalf("exit status %d\n%s", o.Exit, o.Stderr)
	}
	broken.Store(false)
	sent.Store(0)
	o := p.Run(t, "build", "far", "--rootfs-only")
	// The file is not a package, so the build fails after the download.
	fails(t, o, 1, "package (fetch base-files_1_amd64.deb): is not an ar archive")
	if n := sent.Load(); n > int64(len(content))*6/10 {
		t.Errorf("the second download sent %d of %d bytes", n, len(content))
	}
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w *countingWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.n.Add(int64(n))
	return n, err
}

// TestLockEditedByHand checks that meros rejects a damaged lock, and that --locked
// does not write one.
func TestLockEditedByHand(t *testing.T) {
	p := shared(t, "edited", nil)
	file := p.Path("constellations/edited/meros.lock")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		old, new string
		words    []string
	}{
		"garbage":  {"base\n", "base\nnonsense here\n", []string{"meros.lock:", "nonsense"}},
		"conflict": {"base\n", "<<<<<<< HEAD\nbase\n", []string{"meros.lock:"}},
		"digest":   {"\npackage adduser ", "\npackage ../../adduser ", []string{"meros.lock:"}},
	} {
		text := strings.Replace(string(good), c.old, c.new, 1)
		if text == string(good) {
			t.Fatalf("%s: the lock does not have the text to replace", name)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		o := p.Run(t, "build", "edited", "--rootfs-only")
		if o.Exit == 0 {
			t.Errorf("%s: the build succeeded", name)
		}
		fails(t, o, o.Exit, c.words...)
	}
	// --locked reports the missing lock and does not write it.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	fails(t, p.Run(t, "build", "edited", "--locked"), 1, "--locked", "meros lock edited")
	if _, err := os.Stat(file); err == nil {
		t.Error("--locked wrote a lock")
	}
}
