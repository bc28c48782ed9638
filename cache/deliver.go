// This file writes artifacts to paths outside of the store, and checks them later.

package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// delivery is the record of a file that was written outside of the store.
type delivery struct {
	Path    string   `json:"path"`
	Content Artifact `json:"content"`
	Inode   uint64   `json:"inode"`
	MtimeNS int64    `json:"mtime_ns"`
}

func (s *Store) deliveryPath(path string) string {
	h := sha256.Sum256([]byte(path))
	return filepath.Join(s.dir, "delivered", hex.EncodeToString(h[:]))
}

// Deliver moves the file name, on the store's file system, to path. That is outside of
// the store, and perhaps on another file system. The file is complete and durable
// before it gets its name. Deliver replaces only a regular file or a link to one. It
// records the file for [Store.Delivered].
func (s *Store) Deliver(ctx context.Context, name, path string) (Artifact, error) {
	a, err := s.deliver(ctx, name, path)
	if err != nil {
		return a, fmt.Errorf("write %s: %w", path, err)
	}
	return a, nil
}

func (s *Store) deliver(ctx context.Context, name, path string) (Artifact, error) {
	f, err := os.Open(name)
	if err != nil {
		return Artifact{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, ctxReader{ctx, f})
	if err != nil {
		return Artifact{}, err
	}
	a := Artifact{digest.NewDigestFromBytes(digest.SHA256, h.Sum(nil)), n}
	if err := errors.Join(f.Chmod(s.delivered), s.sync(f)); err != nil {
		return a, err
	}
	// Before the rename: after it, another process may have replaced the file.
	d, err := statDelivery(name)
	if err != nil {
		return a, err
	}
	if err := replaceable(path); err != nil {
		return a, err
	}
	err = s.rename(name, path)
	if errors.Is(err, unix.EXDEV) {
		d, err = s.deliverCopy(ctx, f, path)
	}
	if err != nil {
		return a, err
	}
	d.Path, d.Content = path, a
	b, err := json.Marshal(d)
	if err != nil {
		return a, err
	}
	if err := os.MkdirAll(filepath.Join(s.dir, "delivered"), 0o755); err != nil {
		return a, err
	}
	return a, s.writeFile(s.deliveryPath(path), b, 0o644)
}

// deliverCopy writes a copy of the file to path, and preserves its holes.
func (s *Store) deliverCopy(ctx context.Context, f *os.File, path string) (delivery, error) {
	fi, err := f.Stat()
	if err != nil {
		return delivery{}, err
	}
	u, err := NewUnfinished(path)
	if err != nil {
		return delivery{}, err
	}
	defer u.Close()
	if err := copySparse(u.File, f, func(r io.Reader) io.Reader { return ctxReader{ctx, r} }); err != nil {
		return delivery{}, err
	}
	d, err := statDelivery(u.Name())
	if err != nil {
		return d, err
	}
	return d, errors.Join(u.Finish(fi.Mode().Perm()), s.syncDir(filepath.Dir(path)))
}

// Delivered returns nil if the file at path is still the artifact that was delivered
// there. Otherwise it returns a *[Miss]: the file may have been removed, replaced or
// edited. It compares stat data and does not read the file.
func (s *Store) Delivered(path string, a Artifact) error {
	b, err := os.ReadFile(s.deliveryPath(path))
	if err != nil {
		return miss("%s was never written", filepath.Base(path))
	}
	var was delivery
	if err := json.Unmarshal(b, &was); err != nil {
		return miss("the record of %s is damaged", filepath.Base(path))
	}
	now, err := statDelivery(path)
	if err != nil {
		return miss("%s is gone", filepath.Base(path))
	}
	if was.Content != a {
		return miss("%s is of another build", filepath.Base(path))
	}
	if now.Inode != was.Inode || now.MtimeNS != was.MtimeNS || now.Content.Size != a.Size {
		return miss("%s was changed since it was written", filepath.Base(path))
	}
	return nil
}

// statDelivery returns a delivery with everything but the digest of the content.
func statDelivery(path string) (delivery, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return delivery{}, err
	}
	d := delivery{Path: path, MtimeNS: fi.ModTime().UnixNano(), Content: Artifact{Size: fi.Size()}}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		d.Inode = st.Ino
	}
	return d, nil
}
