package cache

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// Unpack fills the empty directory dir from the artifact in file.
type Unpack func(ctx context.Context, file, dir string) error

// TreePath is where [Store.Tree] keeps the unpacked artifact. Trees are not
// synced, which would take as long as making them: they are believed only
// during the boot of the host in which they were made.
func (s *Store) TreePath(d digest.Digest) string {
	return filepath.Join(s.dir, "trees", s.boot, d.Encoded())
}

// Tree returns the directory that holds the artifact unpacked, made by unpack
// where it is missing. It is a view that can always be made again, so it is
// no artifact itself; nothing may write to it.
func (s *Store) Tree(ctx context.Context, a Artifact, unpack Unpack) (string, error) {
	dir := s.TreePath(a.Digest)
	if _, err := os.Lstat(dir); err == nil {
		return dir, nil
	}
	unlock, err := s.Lock(ctx, "tree-"+a.Digest.Encoded(), nil)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Lstat(dir); err == nil {
		return dir, nil
	}
	if err := s.Has(a); err != nil {
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
	return dir, os.Rename(filepath.Join(tmp, "tree"), dir)
}

// AdoptTree takes dir, on the store's file system, as the unpacked view of
// the artifact d. The caller promises that it is what unpacking d would give.
func (s *Store) AdoptTree(d digest.Digest, dir string) error {
	to := s.TreePath(d)
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	if err := os.Rename(dir, to); err != nil && !os.IsExist(err) {
		return fmt.Errorf("keep the unpacked %s: %w", short(d), err)
	}
	return nil
}

// dropTree takes an unpacked view out of the way; deleting it is left to the
// reclaiming of tmp/, because large trees are slow to delete.
func (s *Store) dropTree(d digest.Digest) {
	if tmp, err := os.MkdirTemp(s.tmp, "d-*"); err == nil {
		os.Rename(s.TreePath(d), filepath.Join(tmp, "tree"))
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
