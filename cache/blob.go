package cache

import (
	"bytes"
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

	"github.com/opencontainers/go-digest"
)

// Artifact names an output by the digest of its bytes.
type Artifact struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes
}

// valid tells whether d is a SHA-256 digest, as digest.Validate does. It is asked
// for every artifact of every entry, where a regular expression takes its time.
func valid(d digest.Digest) bool {
	hex, ok := strings.CutPrefix(string(d), "sha256:")
	return ok && isHex(hex)
}

// isHex tells whether s has the digits of a SHA-256 digest.
func isHex(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// pinned is the modification time every published blob is given. A write to a
// published blob moves it, so that an unchanged stat means unchanged bytes
// and a look-up need not read them. The time of access is that of the last use,
// see [Store.Collect].
var sealed = time.Unix(1, 0)

// Path is where the artifact is, or would be, in the store. The file must not
// be written to.
func (s *Store) Path(d digest.Digest) string {
	h := d.Encoded()
	return filepath.Join(s.dir, "cas", h[:2], h)
}

// Has tells whether the artifact is here and whole, else a *[Miss]. A file
// whose stat shows that it was touched is read and compared with its digest;
// if it differs it is dropped.
func (s *Store) Has(a Artifact) error {
	if !valid(a.Digest) {
		return miss("%q is no digest", a.Digest)
	}
	name := s.Path(a.Digest)
	fi, err := os.Lstat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return miss("artifact %s is not in the store", short(a.Digest))
	case err != nil:
		return miss("artifact %s: %v", short(a.Digest), err)
	case !fi.Mode().IsRegular():
		return miss("artifact %s is no regular file", short(a.Digest))
	case fi.Size() != a.Size:
		if err := s.Verify(a.Digest); err != nil {
			return err
		}
		return miss("artifact %s has %d bytes, and %d were expected", short(a.Digest), fi.Size(), a.Size)
	case !fi.ModTime().Equal(sealed):
		return s.Verify(a.Digest)
	case s.fresh(lastUse(fi)):
		return nil
	}
	if errors.Is(s.use(name), os.ErrNotExist) {
		return miss("artifact %s is not in the store", short(a.Digest))
	}
	return nil
}

// Verify reads the artifact and compares it with its digest. A damaged one is
// dropped and the *[Miss] says so.
func (s *Store) Verify(d digest.Digest) error {
	f, err := os.Open(s.Path(d))
	if err != nil {
		return miss("artifact %s: %v", short(d), err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return miss("artifact %s cannot be read: %v", short(d), err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != d.Encoded() {
		return s.drop(d, "is damaged: its content is "+got[:12])
	}
	if !s.readOnly {
		os.Chtimes(s.Path(d), sealed, sealed) // only spares the next look-up this read
	}
	if errors.Is(s.use(s.Path(d)), os.ErrNotExist) {
		return miss("artifact %s is not in the store", short(d))
	}
	return nil
}

// drop takes a blob that is not what its name says out of the way.
func (s *Store) drop(d digest.Digest, why string) error {
	if !s.readOnly {
		os.Remove(s.Path(d))
		s.dropTree(d)
	}
	return miss("artifact %s %s", short(d), why)
}

func short(d digest.Digest) string {
	if h := d.Encoded(); len(h) > 12 {
		return h[:12]
	}
	return string(d)
}

// Put moves the regular file name into the store and returns what it is
// called there. The file must be on the store's file system; it is hashed
// after the last write to it, so what is stored is what was hashed.
func (s *Store) Put(ctx context.Context, name string) (Artifact, error) {
	f, err := os.Open(name)
	if err != nil {
		return Artifact{}, fmt.Errorf("store %s: %w", name, err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, ctxReader{ctx, f})
	if err != nil {
		return Artifact{}, fmt.Errorf("store %s: %w", name, err)
	}
	a := Artifact{digest.NewDigestFromBytes(digest.SHA256, h.Sum(nil)), n}
	if s.Has(a) == nil {
		return a, os.Remove(name)
	}
	if err := s.publish(f, name, s.Path(a.Digest)); err != nil {
		return Artifact{}, fmt.Errorf("store %s: %w", name, err)
	}
	return a, nil
}

func (s *Store) publish(f *os.File, name, to string) error {
	if err := f.Chmod(0o444); err != nil {
		return err
	}
	if err := s.sync(f); err != nil {
		return err
	}
	if err := os.Chtimes(name, s.stamp(), sealed); err != nil {
		return err
	}
	return s.rename(name, to)
}

// PutBytes stores data.
func (s *Store) PutBytes(ctx context.Context, data []byte) (Artifact, error) {
	a := Artifact{digest.FromBytes(data), int64(len(data))}
	if s.Has(a) == nil {
		return a, nil
	}
	f, err := os.CreateTemp(s.tmp, "b-*")
	if err != nil {
		return Artifact{}, fmt.Errorf("store %d bytes: %w", len(data), err)
	}
	defer f.Close()
	_, err = io.Copy(f, bytes.NewReader(data))
	if err == nil {
		err = s.publish(f, f.Name(), s.Path(a.Digest))
	}
	if err != nil {
		os.Remove(f.Name())
		return Artifact{}, fmt.Errorf("store %d bytes: %w", len(data), err)
	}
	return a, nil
}

// ctxReader ends a long copy when the context does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
