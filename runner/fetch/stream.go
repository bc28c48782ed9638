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

// stream is the content of a URL from an offset on. A connection that breaks
// after it brought something is replaced by one that goes on from there.
type stream struct {
	ctx     context.Context
	url     string
	client  *http.Client
	stall   time.Duration // how long a server may send nothing
	checked bool          // the whole is compared with a digest afterwards

	body  *body
	at    int64  // offset of the next byte
	began int64  // where the connection's first one was
	same  string // what tells that the file is still the same, for If-Range
	size  string // of the whole as the server says it, if it does
	err   error
}

// Open returns the content of a URL that nothing is known of beforehand. What
// is asked by https is not taken from elsewhere by http.
func Open(ctx context.Context, from string, servers map[string]Reach) (io.ReadCloser, error) {
	c := client(servers)
	c.CheckRedirect = staySecure
	s := &stream{ctx: ctx, url: from, client: c, stall: stall}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

// staySecure is the check of redirects, net/http's own included.
func staySecure(next *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	if last := via[len(via)-1]; last.URL.Scheme == "https" && next.URL.Scheme != "https" {
		return fmt.Errorf("it redirects from https to %s, and from https to http none is followed", next.URL.Redacted())
	}
	return nil
}

// Read is io.Reader's.
func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.err != nil {
			if s.err == io.EOF || s.ctx.Err() != nil || s.at == s.began {
				return 0, s.err
			}
			if err := s.goOn(); err != nil {
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

// goOn opens the file where it broke off.
func (s *stream) goOn() error {
	broke, at := fmt.Errorf("ended after %d bytes: %w", s.at, s.err), s.at
	s.body.Close()
	err := s.open()
	switch {
	case err != nil:
		s.err = fmt.Errorf("%w; then: %w", broke, err)
	case s.at != at:
		s.err = fmt.Errorf("%w (the server does not go on from there)", broke)
	default:
		return nil
	}
	s.began = s.at // nothing more is tried
	return s.err
}

// Close ends the connection.
func (s *stream) Close() error { return s.body.Close() }

// open asks for what follows s.at; a server that sends the whole sets that to 0.
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
	} else if err := s.goesOn(b.header); err != nil {
		b.Close()
		return err
	}
	s.began = s.at
	return nil
}

// errOtherPart says that a server sends something else than what was asked for.
var errOtherPart = errors.New("the server sends another part, or of another file")

// goesOn checks that a part of a file is the one that was asked for, of the file
// that the part before it is of: not all servers know If-Range.
func (s *stream) goesOn(h http.Header) error {
	where, size, _ := strings.Cut(h.Get("Content-Range"), "/")
	if !strings.HasPrefix(where, fmt.Sprintf("bytes %d-", s.at)) {
		return fmt.Errorf("%w: %q instead of what follows byte %d", errOtherPart, h.Get("Content-Range"), s.at)
	}
	tag := h.Get("ETag")
	if s.size != "" && size != "*" && size != s.size || tag != "" && strings.HasPrefix(s.same, `"`) && tag != s.same {
		return fmt.Errorf("%w: it is not the one that it began with", errOtherPart)
	}
	s.same, s.size = cmp.Or(s.same, validator(h)), cmp.Or(s.size, strings.Trim(size, "*"))
	return nil
}

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

// GoneError is what a server says that does not have the file.
type GoneError struct{ Status string }

func (e GoneError) Error() string { return "the server says " + e.Status }

// validator tells a file's versions apart, RFC 9110 section 13.1.5: a strong
// entity tag, or a date of its last change that is old enough.
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

// body is what one connection brings. It ends when its server sends nothing for
// too long.
type body struct {
	io.ReadCloser
	header   http.Header
	partial  bool            // it begins where it was asked to
	ctx      context.Context // nil of a local file
	cancel   context.CancelCauseFunc
	watchdog *time.Timer
	stall    time.Duration
}

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

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.release()
	return err
}

func (b *body) release() {
	if b.ctx != nil {
		b.watchdog.Stop()
		b.cancel(nil)
	}
}
