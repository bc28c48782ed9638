// This file unpacks artifacts into trees, and checks that a tree is unchanged.

package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

// Unpack fills the empty directory dir from the artifact in file.
type Unpack func(ctx context.Context, file, dir string) error

// fingerprintSuffix ends the name of the file beside a tree that holds its
// fingerprint.
const fingerprintSuffix = ".look"

// TreePath returns the path of the unpacked artifact. The directory may not exist, see
// [Store.Tree].
func (s *Store) TreePath(d digest.Digest) string {
	return filepath.Join(s.dir, "trees", s.boot, s.view, d.Encoded())
}

// idView returns an id of the process's view of file owners. It differs between root
// and an ordinary user in a user namespace, user_namespaces(7).
func idView() (string, error) {
	h := sha256.New()
	for _, f := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)[:6]), nil
}

// Tree returns the directory with the unpacked artifact. If the tree is missing or has
// changed, Tree calls unpack. The tree is not an artifact, because it can always be
// unpacked again. Nobody may write to it.
func (s *Store) Tree(ctx context.Context, a Artifact, unpack Unpack) (string, error) {
	unlock, err := s.Lock(ctx, "tree-"+a.Digest.Encoded(), nil)
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := s.TreePath(a.Digest)
	if s.trust(dir) && s.useTree(dir+fingerprintSuffix) == nil {
		return dir, nil
	}
	s.dropTree(a.Digest)
	// Read all of it: a tree that was unpacked from damaged bytes would stay wrong.
	if err := s.Has(a); err != nil {
		return "", err
	}
	if err := s.Verify(a.Digest); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(s.tmp, "t-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := unpack(ctx, s.Path(a.Digest), filepath.Join(tmp, "tree")); err != nil {
		return "", fmt.Errorf("unpack %s: %w", short(a.Digest), err)
	}
	return dir, s.publishTree(filepath.Join(tmp, "tree"), dir)
}

// text returns the content of a fingerprint file. It has the size of the tree for
// [Contents].
func (f Fingerprint) text() string { return fmt.Sprintln(f.Sum, f.Bytes) }

// trust reports whether a tree is unchanged since it was unpacked. Each process checks
// a tree only once.
func (s *Store) trust(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := os.Lstat(dir); err != nil {
		return false
	}
	if s.trusted[dir] {
		return true
	}
	was, err := os.ReadFile(dir + fingerprintSuffix)
	if err != nil {
		return false
	}
	now, err := FingerprintTree(dir, nil)
	if err != nil || now.text() != string(was) {
		return false
	}
	s.trusted[dir] = true
	return true
}

// publishTree moves a complete tree to its final path.
func (s *Store) publishTree(from, to string) error {
	f, err := FingerprintTree(from, nil)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	file := filepath.Join(s.tmp, "look-"+filepath.Base(to))
	if err := os.WriteFile(file, []byte(f.text()), 0o644); err != nil {
		return err
	}
	if err := os.Chtimes(file, time.Time{}, s.stamp()); err != nil {
		return err
	}
	if err := os.Rename(file, to+fingerprintSuffix); err != nil { // first: a tree without it would count as unused
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trusted[to] = true
	return nil
}

// AdoptTree moves dir, on the store's file system, into the store as the tree of the
// artifact d. The caller promises that it equals what unpacking d would give.
func (s *Store) AdoptTree(ctx context.Context, d digest.Digest, dir string) error {
	unlock, err := s.Lock(ctx, "tree-"+d.Encoded(), nil)
	if err != nil {
		return err
	}
	defer unlock()
	to := s.TreePath(d)
	if s.trust(to) {
		return nil
	}
	s.dropTree(d)
	if err := s.publishTree(dir, to); err != nil {
		return fmt.Errorf("store the tree of %s: %w", short(d), err)
	}
	return nil
}

// dropTree moves a tree to the directory of temporary files. It is deleted with that,
// because large trees are slow to delete.
func (s *Store) dropTree(d digest.Digest) {
	to := s.TreePath(d)
	if _, err := os.Lstat(to); err != nil {
		return
	}
	if tmp, err := os.MkdirTemp(s.tmp, "d-*"); err == nil && os.Rename(to, filepath.Join(tmp, "tree")) == nil {
		os.Remove(to + fingerprintSuffix)
	}
}

// dropStaleTrees moves the trees of earlier boots to the directory of temporary files.
func (s *Store) dropStaleTrees() {
	entries, err := os.ReadDir(filepath.Join(s.dir, "trees"))
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Name() != s.boot {
			os.Rename(filepath.Join(s.dir, "trees", e.Name()), filepath.Join(s.tmp, "stale-"+e.Name()))
		}
	}
}
