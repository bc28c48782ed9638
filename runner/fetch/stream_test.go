// This file tests streams: broken connections, silent servers and redirects.

package fetch

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// breaking serves file as most servers do, but each connection breaks after so many
// bytes. It counts the connections.
func breaking(t *testing.T, after int, header func(n int64) map[string]string) (string, *atomic.Int64) {
	connections := new(atomic.Int64)
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		for name, value := range header(connections.Add(1)) {
			w.Header().Set(name, value)
		}
		changed, _ := http.ParseTime(w.Header().Get("Last-Modified"))
		http.ServeContent(&breaker{w, after}, r, "x", changed, bytes.NewReader(file))
	}), connections
}

type breaker struct {
	http.ResponseWriter
	left int
}

func (b *breaker) Write(p []byte) (int, error) {
	if len(p) > b.left {
		b.ResponseWriter.Write(p[:b.left])
		b.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	b.left -= len(p)
	return b.ResponseWriter.Write(p)
}

// A download resumes after its connection broke, if the connection delivered some bytes
// and the file is certainly the same.
func TestResumesBrokenConnection(t *testing.T) {
	third := len(file)/3 + 1
	for name, test := range map[string]struct {
		after       int
		header      func(n int64) map[string]string
		connections int64
		err         string
	}{
		"tag": {third, func(int64) map[string]string { return map[string]string{"ETag": `"a"`} }, 3, ""},
		"date": {third, func(int64) map[string]string {
			return map[string]string{"Last-Modified": "Mon, 02 Jan 2006 15:04:05 GMT"}
		}, 3, ""},
		"changed":          {third, func(n int64) map[string]string { return map[string]string{"ETag": fmt.Sprintf(`"%d"`, n)} }, 2, "the server cannot resume there"},
		"weak tag":         {third, func(int64) map[string]string { return map[string]string{"ETag": `W/"a"`} }, 2, "the server cannot resume there"},
		"nothing is known": {third, func(int64) map[string]string { return nil }, 2, "the server cannot resume there"},
		"changed just now": {third, func(int64) map[string]string {
			return map[string]string{"Last-Modified": time.Now().UTC().Format(http.TimeFormat)}
		}, 2, "the server cannot resume there"},
		"brings nothing":    {0, func(int64) map[string]string { return map[string]string{"ETag": `"a"`} }, 1, "EOF"},
		"never breaks":      {len(file), func(int64) map[string]string { return map[string]string{"ETag": `"a"`} }, 1, ""},
		"digest is checked": {third, func(int64) map[string]string { return nil }, 3, ""},
	} {
		t.Run(name, func(t *testing.T) {
			from, connections := breaking(t, test.after, test.header)
			var got []byte
			var err error
			if strings.HasPrefix(name, "digest") {
				got, err = get(t, t.TempDir(), from)
			} else {
				got, err = opened(t, from)
			}
			if test.err == "" && (err != nil || !bytes.Equal(got, file)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("%v, want %q", err, test.err)
			}
			if connections.Load() != test.connections {
				t.Errorf("%d connections, want %d", connections.Load(), test.connections)
			}
		})
	}
}

// A resumed download refuses any other part and any other file, even if the server
// ignores If-Range.
func TestOtherParts(t *testing.T) {
	third := len(file)/3 + 1
	for name, part := range map[string]func(n int64, r *http.Request) (tag, where string){
		"another file": func(n int64, r *http.Request) (string, string) { return fmt.Sprintf(`"%d"`, n), "" },
		"another length": func(n int64, r *http.Request) (string, string) {
			return `"a"`, fmt.Sprintf("bytes %d-%d/%d", third, len(file)-1, len(file)+1)
		},
		"another part": func(n int64, r *http.Request) (string, string) {
			return `"a"`, fmt.Sprintf("bytes 0-%d/%d", len(file)-1, len(file))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			from := serve(t, func(w http.ResponseWriter, r *http.Request) {
				tag, where := part(n.Add(1), r)
				w.Header().Set("ETag", tag)
				r.Header.Del("If-Range")
				if where != "" && r.Header.Get("Range") != "" {
					w.Header().Set("Content-Range", where)
					w.WriteHeader(http.StatusPartialContent)
					w.Write(file[third:])
					return
				}
				http.ServeContent(&breaker{w, third}, r, "x", time.Time{}, bytes.NewReader(file))
			})
			if b, err := opened(t, from); err == nil || !strings.Contains(err.Error(), "another part, or another file") {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
}

// If a server sends wrong parts, the next try asks for the whole file.
func TestNoParts(t *testing.T) {
	var n atomic.Int64
	from := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Range") != "":
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-9/%d", len(file)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(file[:10])
		case n.Add(1) == 1:
			http.ServeContent(&breaker{w, len(file) / 2}, r, "x", time.Time{}, bytes.NewReader(file))
		default:
			w.Write(file)
		}
	})
	partial := t.TempDir()
	if _, err := get(t, partial, from); err == nil {
		t.Error("half a file counts as a whole one")
	}
	if b, err := get(t, partial, from); err != nil || !bytes.Equal(b, file) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// opened reads a URL with Open.
func opened(t *testing.T, from string) ([]byte, error) {
	t.Helper()
	r, err := Open(t.Context(), from, nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// A download gives up on a server that goes silent before its answer. If the server sent
// some bytes before, the download first asks for the rest once.
func TestStall(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	for name, test := range map[string]struct {
		answers, sends bool
		want           string
	}{
		"no answer": {false, false, "sent nothing for 50ms"},
		"no body":   {true, false, "sent nothing for 50ms"},
		"half":      {true, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			from := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"a"`)
				if r.Header.Get("Range") != "" {
					http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(file))
					return
				}
				if test.answers {
					w.Header().Set("Content-Length", fmt.Sprint(len(file)))
					w.WriteHeader(http.StatusOK)
					if test.sends {
						w.Write(file[:len(file)/2])
					}
					w.(http.Flusher).Flush()
				}
				select {
				case <-r.Context().Done():
				case <-release:
				}
			})
			s := &stream{ctx: t.Context(), url: from, client: client(nil), stall: 50 * time.Millisecond}
			got, err := []byte(nil), s.open()
			if err == nil {
				got, err = io.ReadAll(s)
				s.Close()
			}
			if test.want == "" && (err != nil || !bytes.Equal(got, file)) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%d bytes, %v, want %q", len(got), err, test.want)
			}
		})
	}
}

func TestOpenLocal(t *testing.T) {
	local := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(local, file, 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err := opened(t, "file://"+local); err != nil || !bytes.Equal(b, file) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := opened(t, "file://"+local+"-not"); err == nil {
		t.Error("a missing file is opened")
	}
}

// A redirect from https to http is refused.
func TestStaySecure(t *testing.T) {
	for _, test := range []struct {
		via, next string
		ok        bool
	}{
		{"https://a/", "http://b/", false},
		{"https://a/", "https://b/", true},
		{"http://a/", "http://b/", true},
		{"http://a/", "https://b/", true},
	} {
		via, next := httptest.NewRequest("GET", test.via, nil), httptest.NewRequest("GET", test.next, nil)
		if err := staySecure(next, []*http.Request{via}); (err == nil) != test.ok {
			t.Errorf("%s, %s: %v", test.via, test.next, err)
		}
	}
}

// fromEnv names the variable with the URL that the test opens in a process of its own.
const fromEnv = "FETCH_FROM"

func TestOpenStaysSecure(t *testing.T) {
	if from := os.Getenv(fromEnv); from != "" {
		if _, err := opened(t, from); err == nil || !strings.Contains(err.Error(), "redirects from https to http://") {
			t.Errorf("%v", err)
		}
		return
	}
	var asked atomic.Int64
	plain := serve(t, func(w http.ResponseWriter, r *http.Request) { asked.Add(1) })
	server := httptest.NewTLSServer(http.RedirectHandler(plain, http.StatusFound))
	defer server.Close()
	trusted := filepath.Join(t.TempDir(), "trusted")
	if err := os.WriteFile(trusted, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestOpenStaysSecure$")
	cmd.Env = append(os.Environ(), fromEnv+"="+server.URL, "SSL_CERT_FILE="+trusted) // crypto/x509 reads it once
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if asked.Load() > 0 {
		t.Error("the http server was asked")
	}
}
