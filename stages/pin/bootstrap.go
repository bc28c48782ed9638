// This file resolves the packages of Debian and Ubuntu by the host's apt, which
// [debian.Resolver] runs with a configuration of its own.

package pin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"meros/cache"
	"meros/constellations"
	"meros/runner/arch"
	"meros/runner/debian"
	"meros/runner/hint"
	"meros/runner/sandbox"
)

// debianResolver is the [resolver] of Debian and Ubuntu.
type debianResolver struct {
	*debian.Resolver
	scratch *cache.Scratch
}

// openDebian reads and verifies the indexes of a section's archives.
func (p *Pinner) openDebian(ctx context.Context, m *constellations.Manifest, s constellations.Section) (r *debianResolver, err error) {
	a, err := arch.Find(s.Arch)
	if err != nil {
		return nil, err
	}
	archives, err := debian.Archives(s.Distribution, "/", s.Suite, a.Debian, s.Mirror)
	if err != nil {
		return nil, err
	}
	scratch, err := aptScratch()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			scratch.Close()
		}
	}()
	keyrings, err := p.keyringsFor(m, s, scratch.Dir())
	if err != nil {
		return nil, err
	}
	opened, err := debian.OpenResolver(ctx, debian.ResolverOptions{
		Dir: scratch.Dir(), Archives: archives, Suite: s.Suite, Arch: a.Debian, Ubuntu: s.Distribution == debian.Ubuntu, Keyrings: keyrings,
	})
	if near := constellations.Nearest(s.Suite, debian.Suites(s.Distribution)); errors.Is(err, debian.ErrNoSuite) && near != "" && near != s.Suite {
		err = hint.Add(err, "did you mean %q?", near)
	}
	if err != nil {
		return nil, err
	}
	return &debianResolver{opened, scratch}, nil
}

// Indexes implements [resolver].
func (r *debianResolver) Indexes() []constellations.Index {
	var out []constellations.Index
	for _, i := range r.Resolver.Indexes() {
		out = append(out, constellations.Index(i))
	}
	return out
}

// Base implements [resolver].
func (r *debianResolver) Base(ctx context.Context) ([]constellations.Package, error) {
	return pinned(r.Resolver.Base(ctx))
}

// Kernel implements [resolver].
func (r *debianResolver) Kernel(ctx context.Context) ([]constellations.Package, error) {
	return pinned(r.Resolver.Kernel(ctx))
}

// Extra implements [resolver].
func (r *debianResolver) Extra(ctx context.Context, names []string) ([]constellations.Package, error) {
	return pinned(r.Resolver.Extra(ctx, names))
}

// Package implements [resolver].
func (r *debianResolver) Package(ctx context.Context, name string) (constellations.Package, error) {
	p, err := r.Resolver.Package(ctx, name)
	return constellations.Package(p), err
}

// Close implements [resolver].
func (r *debianResolver) Close() { r.scratch.Close() }

// pinned converts packages from Debian's type to the lock's.
func pinned(packages []debian.Package, err error) ([]constellations.Package, error) {
	if err != nil {
		return nil, err
	}
	out := make([]constellations.Package, len(packages))
	for i, p := range packages {
		out[i] = constellations.Package(p)
	}
	return out, nil
}

// aptScratch creates a directory that apt's own user can reach, whatever the
// mode of the project's directory. Its parent is in a directory to which all
// users may write, so aptScratch checks that this user owns it.
func aptScratch() (*cache.Scratch, error) {
	parent := filepath.Join(os.TempDir(), "meros-apt-"+sandbox.HostUser())
	if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	fi, err := os.Lstat(parent)
	if err != nil {
		return nil, err
	}
	if st := fi.Sys().(*syscall.Stat_t); !fi.IsDir() || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&0o022 != 0 {
		return nil, hint.Add(fmt.Errorf("%s belongs to another user, or other users may write to it", parent), "remove it")
	}
	if _, err := cache.Reclaim(parent); err != nil {
		return nil, err
	}
	return cache.NewScratch(parent)
}
