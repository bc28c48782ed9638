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

// fingerprintSuffix ends the name of the file, beside a tree, that holds its look.
const fingerprintSuffix = ".look"

// TreePath is where [Store.Tree] keeps the unpacked artifact. Trees are not
// synced, which would take as long as making them: they are believed only
// during the boot of the host in which they were made, by processes that see
// owners as the one did that made them, and as long as they look the same.
func (s *Store) TreePath(d digest.Digest) string {
	return filepath.Join(s.dir, "trees", s.boot, s.view, d.Encoded())
}

// idView tells processes apart to which a file has different owners: root, and
// an ordinary user in a namespace of ids (user_namespaces(7)).
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

// Tree returns the directory that holds the artifact unpacked, made by unpack
// where it is missing or damaged. It is a view that can always be made again,
// so it is no artifact itself; nothing may write to it.
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
	// Read whole: what is unpacked wrong would stay wrong.
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

// text is what is kept of a tree's look, with its size for who looks for room.
func (l Fingerprint) text() string { return fmt.Sprintln(l.Sum, l.Bytes) }

// trust tells whether a tree is as it was made. It is looked at once in a
// process.
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

// publishTree puts a complete tree where it is looked for.
func (s *Store) publishTree(from, to string) error {
	l, err := FingerprintTree(from, nil)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	look := filepath.Join(s.tmp, "look-"+filepath.Base(to))
	if err := os.WriteFile(look, []byte(l.text()), 0o644); err != nil {
		return err
	}
	if err := os.Chtimes(look, time.Time{}, s.stamp()); err != nil {
		return err
	}
	if err := os.Rename(look, to+fingerprintSuffix); err != nil { // a tree without one would look unused
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

// AdoptTree takes dir, on the store's file system, as the unpacked view of
// the artifact d. The caller promises that it is what unpacking d would give.
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
		return fmt.Errorf("keep the unpacked %s: %w", short(d), err)
	}
	return nil
}

// dropTree takes an unpacked view out of the way; deleting it is left to the
// reclaiming of tmp/, because large trees are slow to delete.
func (s *Store) dropTree(d digest.Digest) {
	to := s.TreePath(d)
	if _, err := os.Lstat(to); err != nil {
		return
	}
	if tmp, err := os.MkdirTemp(s.tmp, "d-*"); err == nil && os.Rename(to, filepath.Join(tmp, "tree")) == nil {
		os.Remove(to + fingerprintSuffix)
	}
}

// dropStaleTrees takes the views of earlier boots out of the way.
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
