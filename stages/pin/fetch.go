// This file downloads files whose digest nobody knows yet, and leaves them where
// the fetch stage finds them. It also knows where pinned packages can be fetched.

package pin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"meros/cache"
	"meros/constellations"
	"meros/runner/alpine"
	"meros/runner/debian"
	"meros/runner/hint"
)

// maxSource limits the download of a source, bytes.
const maxSource = 64 << 30

// file downloads a file and records its size and digest. If the manifest has a
// digest, it must be the same. If keyring is not "", one of its keys must have
// signed the file.
func (p *Pinner) file(ctx context.Context, s *constellations.Source, keyring string) error {
	d, err := p.download(ctx, s.URL, maxSource)
	if err != nil {
		return err
	}
	defer d.close()
	if s.SHA256 != "" && s.SHA256 != d.sum {
		return hint.Add(fmt.Errorf("%s has the digest sha256:%.12s, but the manifest says sha256:%.12s", s.URL, d.sum, s.SHA256),
			"if the manifest's digest belongs to another version, replace it by %s", d.sum)
	}
	s.Size, s.SHA256 = d.size, d.sum
	if keyring != "" {
		if err := p.verifySignature(ctx, s.URL, d.file, keyring); err != nil {
			return err
		}
		p.Note("its signature is good")
	}
	return d.publish()
}

// download is a downloaded file. It is temporary until publish.
type download struct {
	file    string // path until publish renames it
	sum     string // SHA-256, in hexadecimal
	size    int64  // bytes
	partial string // [Pinner.Partial]
	scratch *cache.Scratch
}

// download writes the content of a URL to a temporary file, at most limit bytes.
func (p *Pinner) download(ctx context.Context, from string, limit int64) (*download, error) {
	if err := os.MkdirAll(p.Partial, 0o755); err != nil {
		return nil, err
	}
	scratch, err := p.Scratch()
	if err != nil {
		return nil, err
	}
	d := &download{file: filepath.Join(scratch.Dir(), "download"), partial: p.Partial, scratch: scratch}
	if err := d.write(ctx, p, from, limit); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *download) write(ctx context.Context, p *Pinner, from string, limit int64) error {
	f, err := os.OpenFile(d.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	d.size, err = p.copy(ctx, io.MultiWriter(f, h), from, limit)
	d.sum = hex.EncodeToString(h.Sum(nil))
	return err
}

// publish gives the file the name under which the fetch stage looks for it.
func (d *download) publish() error { return os.Rename(d.file, filepath.Join(d.partial, d.sum)) }

// close removes the file, unless publish moved it.
func (d *download) close() { d.scratch.Close() }

// copy writes the content of a URL to w. It returns the size in bytes, which
// must not be larger than limit.
func (p *Pinner) copy(ctx context.Context, w io.Writer, from string, limit int64) (int64, error) {
	r, err := p.servers.Open(ctx, from)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", from, err)
	}
	defer r.Close()
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("is larger than %d bytes", limit)
	}
	if err != nil {
		return n, fmt.Errorf("%s: %w", from, err)
	}
	return n, nil
}

// Mirrors knows the addresses of pinned packages.
type Mirrors struct {
	archives map[string][]debian.Archive // by section
	snapshot string                      // the value of [debian.SnapshotEnv]
}

// NewMirrors reads the environment for the address of a snapshot service.
func NewMirrors() *Mirrors {
	return &Mirrors{archives: make(map[string][]debian.Archive), snapshot: os.Getenv(debian.SnapshotEnv)}
}

// URLs returns the addresses of a package, the best first.
func (ms *Mirrors) URLs(section *constellations.SectionLock, p constellations.Package) []string {
	if section.Distribution == "alpine" {
		return []string{alpine.Mirror(section.Mirror) + "/" + p.Filename}
	}
	key := section.Distribution + " " + section.Suite + " " + section.Arch + " " + section.Mirror
	archives, ok := ms.archives[key]
	if !ok {
		archives, _ = debian.Archives(section.Distribution, "/", section.Suite, section.Arch, section.Mirror) // the fetch reports that it has no address
		ms.archives[key] = archives
	}
	var urls []string
	for _, a := range archives {
		if a.Name == p.Archive {
			urls = append(urls, strings.TrimRight(a.URL, "/")+"/"+p.Filename)
		}
	}
	if ms.snapshot != "" && section.Distribution == "debian" {
		name := map[string]string{"security": "debian-security"}[p.Archive]
		if name == "" {
			name = "debian"
		}
		urls = append(urls, fmt.Sprintf("%s/%s/%s/%s", strings.TrimRight(ms.snapshot, "/"), name, section.Date.UTC().Format("20060102T150405Z"), p.Filename))
	}
	return urls
}
