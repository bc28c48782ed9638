// This file tests downloads of files with a known digest.

package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var file = bytes.Repeat([]byte("content "), 1<<15)

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// get downloads file from the URLs and returns the content of the destination.
func get(t *testing.T, partial string, urls ...string) ([]byte, error) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "dst")
	err := To(t.Context(), dst, Options{URLs: urls, SHA256: sum(file), Size: int64(len(file)), Partial: partial})
	b, rerr := os.ReadFile(dst)
	if (rerr == nil) != (err == nil) {
		t.Errorf("the error of To is %v, that of reading the file %v", err, rerr)
	}
	return b, err
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL + "/x.deb"
}

func content(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { w.Write(b) }
}

func TestServers(t *testing.T) {
	good := serve(t, content(file))
	gone := serve(t, http.NotFound)
	local := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(local, file, 0o644); err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(file)
	changed[77] ^= 1
	for name, test := range map[string]struct {
		urls []string
		err  string // "" is success
	}{
		"good":         {[]string{good}, ""},
		"local":        {[]string{"file://" + local}, ""},
		"second":       {[]string{gone, "http://127.0.0.1:1/x", good}, ""},
		"none":         {nil, "no mirror"},
		"gone":         {[]string{gone}, "404 Not Found"},
		"changed":      {[]string{serve(t, content(changed))}, "but the lock says sha256:" + sum(file)},
		"short":        {[]string{serve(t, content(file[:1000]))}, fmt.Sprintf("ended after 1000 of %d bytes", len(file))},
		"long":         {[]string{serve(t, content(append(bytes.Clone(file), 'x')))}, "but the lock says"},
		"portal":       {[]string{serve(t, content([]byte("\n<!DOCTYPE html><title>Log in</title>")))}, "HTML page"},
		"not a scheme": {[]string{"gopher://x/y"}, "unsupported protocol scheme"},
		"all errors":   {[]string{gone, "file:///nonexistent"}, "404 Not Found\nfile:///nonexistent: open"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := get(t, t.TempDir(), test.urls...)
			if test.err == "" && (err != nil || !bytes.Equal(b, file)) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
			if test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("%v, want %q", err, test.err)
			}
		})
	}
}

// ranged serves ranges as most servers do, and counts the bytes that it sends.
func ranged(t *testing.T, b []byte, sent *atomic.Int64) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		counted := &counter{ResponseWriter: w, n: sent}
		http.ServeContent(counted, r, "x", time.Time{}, bytes.NewReader(b))
	})
}

type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return c.ResponseWriter.Write(b)
}

// An unfinished download is not fetched again, unless it is wrong.
func TestResume(t *testing.T) {
	for name, test := range map[string]struct {
		have []byte
		sent int
	}{
		"half":            {file[:len(file)/2], len(file) / 2},
		"all":             {file, 0},
		"half, but wrong": {make([]byte, len(file)/2), len(file)/2 + len(file)},
		"too much":        {append(bytes.Clone(file), 'x'), len(file)},
	} {
		t.Run(name, func(t *testing.T) {
			partial := t.TempDir()
			if err := os.WriteFile(filepath.Join(partial, sum(file)), test.have, 0o644); err != nil {
				t.Fatal(err)
			}
			var sent atomic.Int64
			if b, err := get(t, partial, ranged(t, file, &sent)); err != nil || !bytes.Equal(b, file) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
			if sent.Load() != int64(test.sent) {
				t.Errorf("%d bytes were sent, want %d", sent.Load(), test.sent)
			}
			if left, _ := os.ReadDir(partial); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A download continues after an interruption, also if the server ignores ranges and sends
// the whole file.
func TestInterrupted(t *testing.T) {
	partial := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write(file[:len(file)/2])
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
	})
	dst := filepath.Join(t.TempDir(), "dst")
	err := To(ctx, dst, Options{URLs: []string{u}, SHA256: sum(file), Size: int64(len(file)), Partial: partial})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if b, err := get(t, partial, serve(t, content(file))); err != nil || !bytes.Equal(b, file) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// To uses the addresses and the proxies that the caller gives.
func TestServersReach(t *testing.T) {
	var asked atomic.Value
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.RequestURI + " of " + r.Host)
		w.Write(file)
	})
	at, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		url   string
		reach Reach
		asked string
	}{
		"addresses": {"http://mirror.invalid:" + at.Port() + "/x.deb", Reach{Addresses: []string{"127.0.0.2", at.Hostname()}}, "/x.deb of mirror.invalid:" + at.Port()},
		"proxy":     {"http://mirror.invalid/x.deb", Reach{Proxy: "http://" + at.Host}, "http://mirror.invalid/x.deb of mirror.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			from, err := url.Parse(test.url)
			if err != nil {
				t.Fatal(err)
			}
			err = To(t.Context(), filepath.Join(t.TempDir(), "dst"), Options{
				URLs: []string{test.url}, SHA256: sum(file), Size: int64(len(file)), Partial: t.TempDir(), Servers: map[string]Reach{ServerOf(from): test.reach},
			})
			if err != nil || asked.Load() != test.asked {
				t.Errorf("asked %v, want %q; %v", asked.Load(), test.asked, err)
			}
		})
	}
}
