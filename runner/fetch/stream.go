// This file reads a URL as one stream. It resumes broken connections, and gives up on
// servers that go silent.

package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// stream is the content of a URL from an offset on. If a connection breaks after it
// delivered some bytes, a new connection continues from there.
type stream struct {
	ctx     context.Context
	url     string
	client  *http.Client
	stall   time.Duration // limit without a byte from the server
	checked bool          // the caller compares the file with a digest afterwards

	body  *body
	at    int64  // offset of the next byte
	began int64  // offset of the connection's first byte
	same  string // validator of the file, for If-Range
	size  string // of the whole file, if the server sends it
	err   error
}

// Open returns the content of a URL about which nothing is known. It follows no redirect
// from https to http.
func Open(ctx context.Context, from string, servers map[string]Reach) (io.ReadCloser, error) {
	c := client(servers)
	c.CheckRedirect = staySecure
	s := &stream{ctx: ctx, url: from, client: c, stall: stall}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

// staySecure checks redirects. It includes the default check of net/http.
func staySecure(next *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	if last := via[len(via)-1]; last.URL.Scheme == "https" && next.URL.Scheme != "https" {
		return fmt.Errorf("redirects from https to %s, which is not followed", next.URL.Redacted())
	}
	return nil
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.err != nil {
			if s.err == io.EOF || s.ctx.Err() != nil || s.at == s.began {
				return 0, s.err
			}
			if err := s.resume(); err != nil {
				return 0, err
			}
		}
		var n int
		n, s.err = s.body.Read(p)
		s.at += int64(n)
		if n > 0 || s.err == nil {
			return n, nil
		}
	}
}

// resume opens a new connection at the offset where the last one broke.
func (s *stream) resume() error {
	broke, at := fmt.Errorf("ended after %d bytes: %w", s.at, s.err), s.at
	s.body.Close()
	err := s.open()
	switch {
	case err != nil:
		s.err = fmt.Errorf("%w; then: %w", broke, err)
	case s.at != at:
		s.err = fmt.Errorf("%w; the server cannot resume there", broke)
	default:
		return nil
	}
	s.began = s.at // do not try again
	return s.err
}

// Close ends the connection.
func (s *stream) Close() error { return s.body.Close() }

// open asks for the file from s.at on. It sets s.at to 0 if the server sends the whole
// file.
func (s *stream) open() error {
	s.began, s.err = 0, nil
	u, err := url.Parse(s.url)
	if err != nil {
		return err
	}
	if u.Scheme == "file" {
		f, err := os.Open(u.Path)
		if err != nil {
			return err
		}
		s.body, s.at = &body{ReadCloser: f}, 0
		return nil
	}
	b, err := s.request()
	if err != nil {
		return err
	}
	s.body = b
	if !b.partial {
		s.at, s.same, s.size = 0, validator(b.header), b.header.Get("Content-Length")
	} else if err := s.checkPart(b.header); err != nil {
		b.Close()
		return err
	}
	s.began = s.at
	return nil
}

// errOtherPart says that a server does not send the requested part.
var errOtherPart = errors.New("the server sends another part, or another file")

// checkPart checks that a response is the requested part of the same file as before. Not
// all servers support If-Range.
func (s *stream) checkPart(h http.Header) error {
	where, size, _ := strings.Cut(h.Get("Content-Range"), "/")
	if !strings.HasPrefix(where, fmt.Sprintf("bytes %d-", s.at)) {
		return fmt.Errorf("%w: %q instead of the bytes from %d on", errOtherPart, h.Get("Content-Range"), s.at)
	}
	tag := h.Get("ETag")
	if s.size != "" && size != "*" && size != s.size || tag != "" && strings.HasPrefix(s.same, `"`) && tag != s.same {
		return fmt.Errorf("%w: the file has changed since the download began", errOtherPart)
	}
	s.same, s.size = cmp.Or(s.same, validator(h)), cmp.Or(s.size, strings.Trim(size, "*"))
	return nil
}

// request opens a connection, and a watchdog that ends it when the server goes silent.
func (s *stream) request() (*body, error) {
	ctx, cancel := context.WithCancelCause(s.ctx)
	b := &body{ctx: ctx, cancel: cancel, stall: s.stall}
	b.watchdog = time.AfterFunc(s.stall, func() { cancel(fmt.Errorf("sent nothing for %v", s.stall)) })
	resp, err := s.ask(ctx)
	if err != nil {
		b.release()
		return nil, err
	}
	b.ReadCloser, b.header, b.partial = resp.Body, resp.Header, resp.StatusCode == http.StatusPartialContent
	return b, nil
}

// ask sends the request. The error is a [GoneError] if the server does not have the file.
func (s *stream) ask(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "meros")
	req.Header.Set("Accept-Encoding", "identity")
	if s.at > 0 && (s.checked || s.same != "") {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", s.at))
		if s.same != "" {
			req.Header.Set("If-Range", s.same)
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if s.ctx.Err() == nil && context.Cause(ctx) != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent && req.Header.Get("Range") != "" {
		return resp, nil
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone {
		return nil, GoneError{resp.Status}
	}
	return nil, fmt.Errorf("the server says %s", resp.Status)
}

// GoneError says that a server does not have the file.
type GoneError struct{ Status string }

// Error implements error.
func (e GoneError) Error() string { return "the server says " + e.Status }

// validator returns a value that differs between versions of a file, RFC 9110 section
// 13.1.5. It is a strong entity tag, or the date of the last change if that is old
// enough. It is "" if the server sends neither.
func validator(h http.Header) string {
	if tag := h.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	changed, err := http.ParseTime(h.Get("Last-Modified"))
	now, err2 := http.ParseTime(h.Get("Date"))
	if err != nil || err2 != nil || now.Sub(changed) < time.Minute {
		return ""
	}
	return h.Get("Last-Modified")
}

// body is the response of one connection. Reading it fails if the server sends nothing
// for too long.
type body struct {
	io.ReadCloser
	header   http.Header
	partial  bool            // the server says that it sends only a part
	ctx      context.Context // nil of a local file
	cancel   context.CancelCauseFunc
	watchdog *time.Timer
	stall    time.Duration
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.ctx == nil {
		return n, err
	}
	b.watchdog.Reset(b.stall)
	if err != nil && err != io.EOF && context.Cause(b.ctx) != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.release()
	return err
}

// release stops the watchdog.
func (b *body) release() {
	if b.ctx != nil {
		b.watchdog.Stop()
		b.cancel(nil)
	}
}
