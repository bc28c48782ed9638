// Package fetch downloads files over http and https, and copies local ones.
//
// [To] downloads a file with a known digest, and continues an interrupted download.
// [Open] reads a file about which nothing is known. The package does not
// know the purpose of the files.
package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"meros/runner/hint"
)

// Options describe a download.
type Options struct {
	URLs    []string // tried in this order; http, https and file
	SHA256  string   // 64 hexadecimal digits
	Size    int64    // bytes; To reads at most one more
	Partial string   // directory of unfinished downloads, which the next try continues
	Report  func(done, total int64)
	Servers map[string]Reach // by [ServerOf]; other servers are reached as the environment says
}

// stall limits how long a server may send nothing.
const stall = 60 * time.Second

// To downloads the file to dst, which must not exist. It continues an unfinished
// download in o.Partial if the server can do that. It creates dst only if the size and
// the digest are right. Otherwise the error names every URL and its failure.
func To(ctx context.Context, dst string, o Options) error {
	part, err := os.OpenFile(filepath.Join(o.Partial, o.SHA256), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("open the unfinished download: %w", err)
	}
	defer part.Close()
	var errs []error
	for _, u := range o.URLs {
		err := fetchOne(ctx, part, u, o)
		if err == nil {
			if err := os.Rename(part.Name(), dst); err != nil {
				return copyTo(dst, part)
			}
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", u, err))
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 0 {
		return errors.New("no mirror to download from")
	}
	return errors.Join(errs...)
}

// copyTo replaces a rename between file systems.
func copyTo(dst string, part *os.File) error {
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return err
	}
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, part); err != nil {
		out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Remove(part.Name())
}

// fetchOne completes part from one URL, and checks it.
func fetchOne(ctx context.Context, part *os.File, from string, o Options) error {
	have, err := part.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if have > o.Size {
		have = 0
	}
	if have < o.Size {
		if err := download(ctx, part, from, have, o); err != nil {
			return err
		}
	}
	if err := verify(part, o); err != nil {
		part.Truncate(0) // no part of it can be trusted
		if have > 0 && ctx.Err() == nil {
			return fetchOne(ctx, part, from, o) // the unfinished download may have been of another file
		}
		return err
	}
	return nil
}

// verify checks the size and the digest.
func verify(part *os.File, o Options) error {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(part, 0, o.Size+1))
	if err != nil {
		return err
	}
	if n != o.Size {
		return fmt.Errorf("%d bytes, but the lock says %d", n, o.Size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != o.SHA256 {
		return fmt.Errorf("digest sha256:%s, but the lock says sha256:%s", got, o.SHA256)
	}
	return nil
}

// download appends to part, which already holds the first have bytes.
func download(ctx context.Context, part *os.File, from string, have int64, o Options) error {
	s := &stream{ctx: ctx, url: from, client: client(o.Servers), stall: stall, checked: true, at: have}
	err := s.open()
	if errors.Is(err, errOtherPart) {
		s.at = 0 // ask for the whole file
		err = s.open()
	}
	if err != nil {
		return err
	}
	defer s.Close()
	if err := part.Truncate(s.at); err != nil {
		return err
	}
	w := io.NewOffsetWriter(part, s.at)
	buf := make([]byte, 128<<10)
	// One extra byte reveals a file that is too long.
	for at, r := s.at, io.LimitReader(s, o.Size-s.at+1); ; {
		n, err := r.Read(buf)
		if n > 0 {
			if at == 0 {
				if werr := rejectHTML(buf[:n], from); werr != nil {
					return werr
				}
			}
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
			at += int64(n)
			if o.Report != nil {
				o.Report(at, o.Size)
			}
		}
		switch {
		case err == io.EOF && at < o.Size:
			return fmt.Errorf("ended after %d of %d bytes", at, o.Size)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// rejectHTML recognizes the page of a captive portal or a proxy.
func rejectHTML(begin []byte, from string) error {
	b := strings.ToLower(strings.TrimSpace(string(begin[:min(len(begin), 64)])))
	if (strings.HasPrefix(b, "<!doctype html") || strings.HasPrefix(b, "<html")) && !strings.HasSuffix(from, ".html") {
		return hint.Add(errors.New("sent an HTML page instead of the file"), "check whether a captive portal or a proxy is in between")
	}
	return nil
}
