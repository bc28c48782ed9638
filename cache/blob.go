// This file stores artifacts: files named by the digests of their bytes.

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

// valid reports whether d is a SHA-256 digest. It runs for every artifact of every
// entry, where the regular expression of digest.Validate is too slow.
func valid(d digest.Digest) bool {
	hex, ok := strings.CutPrefix(string(d), "sha256:")
	return ok && isHex(hex)
}

// isHex reports whether s consists of the digits of a SHA-256 digest.
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

// sealed is the modification time of every published artifact. A write to the file
// changes it. So while size and time are unchanged, a look-up need not read the file.
var sealed = time.Unix(1, 0)

// Path returns the path of the artifact in the store, whether it exists or not.
// Nobody may write to the file.
func (s *Store) Path(d digest.Digest) string {
	h := d.Encoded()
	return filepath.Join(s.dir, "cas", h[:2], h)
}

// Has returns nil if the store has the artifact undamaged, and marks it as used.
// Otherwise it returns a *[Miss]. If size or modification time show that the file was
// touched, Has compares it with its digest, and drops it if it differs.
func (s *Store) Has(a Artifact) error {
	if !valid(a.Digest) {
		return miss("%q is not a digest", a.Digest)
	}
	name := s.Path(a.Digest)
	fi, err := os.Lstat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return miss("artifact %s is not in the store", short(a.Digest))
	case err != nil:
		return miss("artifact %s: %v", short(a.Digest), err)
	case !fi.Mode().IsRegular():
		return miss("artifact %s is not a regular file", short(a.Digest))
	case fi.Size() != a.Size:
		if err := s.Verify(a.Digest); err != nil {
			return err
		}
		return miss("artifact %s has %d bytes, expected %d", short(a.Digest), fi.Size(), a.Size)
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

// Verify reads the artifact and compares it with its digest. It drops a damaged
// artifact and returns a *[Miss].
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
		os.Chtimes(s.Path(d), sealed, sealed) // if this fails, the next look-up reads the file again
	}
	if errors.Is(s.use(s.Path(d)), os.ErrNotExist) {
		return miss("artifact %s is not in the store", short(d))
	}
	return nil
}

// drop removes a damaged artifact, and the tree unpacked from it. It returns a
// *[Miss] with the reason.
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

// Put moves the regular file name into the store and returns its artifact. The file
// must be on the store's file system. It is hashed after the last write to it, so the
// store has the bytes that were hashed.
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

// PutBytes stores data as an artifact.
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

// ctxReader fails when the context ends, so that a long copy ends with it.
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
