// This file finds damaged files in a store.

package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Damage is a file of the store whose content does not match its name.
type Damage struct {
	File   string `json:"file"` // relative to the store's directory
	Reason string `json:"reason"`
}

// Verified is the result of [Store.VerifyAll].
type Verified struct {
	Files   int      `json:"files"`
	Bytes   int64    `json:"bytes"`
	Damaged []Damage `json:"damaged"` // sorted by file; never nil
}

// VerifyAll reads every artifact, entry and key text and compares them with their
// digests, on all CPUs. With repair it removes the damaged ones. The next build that
// needs one makes it again.
func (s *Store) VerifyAll(ctx context.Context, repair bool) (*Verified, error) {
	var files []string
	for _, sub := range []string{"cas", "actions"} {
		err := filepath.WalkDir(filepath.Join(s.dir, sub), func(file string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, file)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("verify the cache: %w", err)
		}
	}
	v := &verifier{store: s, repair: repair, damaged: []Damage{}}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for _, f := range files {
		g.Go(func() error { return v.file(ctx, f) })
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("verify the cache: %w", err)
	}
	sort.Slice(v.damaged, func(i, j int) bool { return v.damaged[i].File < v.damaged[j].File })
	return &Verified{Files: len(files), Bytes: v.bytes.Load(), Damaged: v.damaged}, nil
}

type verifier struct {
	store   *Store
	repair  bool
	bytes   atomic.Int64
	mu      sync.Mutex // guards damaged
	damaged []Damage
}

// file checks one file. It ignores a file that has disappeared meanwhile.
func (v *verifier) file(ctx context.Context, file string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	reason, err := v.check(ctx, file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && reason == "" {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		reason = err.Error() // an unreadable disk is damage, too
	}
	rel, err := filepath.Rel(v.store.dir, file)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.damaged = append(v.damaged, Damage{rel, reason})
	v.mu.Unlock()
	if !v.repair {
		return nil
	}
	if d := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(file)); d.Validate() == nil && v.store.Path(d) == file {
		v.store.drop(d, reason)
		return nil
	}
	return os.Remove(file)
}

// check returns the reason why a file is damaged, or "".
func (v *verifier) check(ctx context.Context, file string) (string, error) {
	sub, name := filepath.Base(filepath.Dir(filepath.Dir(file))), filepath.Base(file)
	hexName, isKey := strings.CutSuffix(name, ".key")
	if digest.NewDigestFromEncoded(digest.SHA256, hexName).Validate() != nil || filepath.Base(filepath.Dir(file)) != hexName[:2] {
		return "its name is not a digest", nil
	}
	if sub == "actions" && !isKey {
		id, err := ParseActionID(hexName)
		if err != nil {
			return "", err
		}
		_, err = v.store.Lookup(id)
		if miss := (*Miss)(nil); errors.As(err, &miss) {
			return miss.Reason, nil
		}
		return "", err
	}
	sum, err := v.sum(ctx, file)
	if err != nil {
		return "", err
	}
	if sum != hexName {
		return "its content has the digest " + sum[:12], nil
	}
	return "", nil
}

func (v *verifier) sum(ctx context.Context, file string) (string, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOATIME, 0) // a check is not a use
	if errors.Is(err, fs.ErrPermission) {
		f, err = os.Open(file)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	h, buf := sha256.New(), make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		v.bytes.Add(int64(n))
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
	}
}
