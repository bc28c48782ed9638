// This file tests the store: artifacts, entries, locks, trees, scratch directories and
// deliveries.

package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// isMiss checks that err is a miss whose reason contains the word.
func isMiss(t *testing.T, err error, word string) {
	t.Helper()
	var m *Miss
	if !errors.As(err, &m) || !strings.Contains(m.Reason, word) {
		t.Errorf("%v, want a miss with %q", err, word)
	}
}

func put(t *testing.T, s *Store, text string) Artifact {
	t.Helper()
	a, err := s.PutBytes(t.Context(), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestPut(t *testing.T) {
	s := open(t)
	a := put(t, s, "content")
	if err := s.Has(a); err != nil {
		t.Error(err)
	}
	fi, err := os.Stat(s.Path(a.Digest))
	if err != nil || fi.Mode().Perm() != 0o444 {
		t.Errorf("%v, %v", fi, err)
	}
	file := filepath.Join(s.Dir(), "tmp", "x")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Put(t.Context(), file); err != nil || b != a {
		t.Errorf("the same bytes gave the artifact %v, then %v, %v", a, b, err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Dir(), "tmp", "*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := os.WriteFile(file, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, file); !errors.Is(err, context.Canceled) {
		t.Errorf("storing with a cancelled context: %v", err)
	}
}

// A stored file that was changed in any way is a miss.
func TestDamagedBlob(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(file string) error
		word string
	}{
		"gone":      {os.Remove, "is not in the store"},
		"truncated": {func(f string) error { return os.Truncate(f, 3) }, "is damaged"},
		"edited": {func(f string) error {
			os.Chmod(f, 0o644)
			return os.WriteFile(f, []byte("cOntent"), 0o644)
		}, "is damaged"},
		"replaced by a link": {func(f string) error { return errors.Join(os.Remove(f), os.Symlink("/etc/passwd", f)) }, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			a := put(t, s, "content")
			if err := test.do(s.Path(a.Digest)); err != nil {
				t.Fatal(err)
			}
			isMiss(t, s.Has(a), test.word)
			if put(t, s, "content") != a || s.Has(a) != nil {
				t.Error("the artifact cannot be stored again")
			}
		})
	}
	// A file that was touched but not changed is not damaged.
	s := open(t)
	a := put(t, s, "content")
	now := time.Now()
	if err := os.Chtimes(s.Path(a.Digest), now, now); err != nil {
		t.Fatal(err)
	}
	if err := s.Has(a); err != nil {
		t.Error(err)
	}
}

func TestEntry(t *testing.T) {
	s := open(t)
	key := []byte("key text")
	id := NewActionID(key)
	if _, err := s.Lookup(id); err == nil {
		t.Fatal("there is an entry before it was recorded")
	}
	e := Entry{Outputs: map[string]Artifact{"out": put(t, s, "content")}, Node: "n", Stage: "s"}
	if err := s.Record(id, []byte("another"), e); err == nil {
		t.Error("the key text of another action was accepted")
	}
	if err := s.Record(id, key, e); err != nil {
		t.Fatal(err)
	}
	got, err := s.Lookup(id)
	if err != nil || got.Outputs["out"] != e.Outputs["out"] {
		t.Errorf("%v, %v", got, err)
	}
	if b, err := s.KeyText(id); err != nil || string(b) != string(key) {
		t.Errorf("%q, %v", b, err)
	}
	if p, err := ParseActionID(id.Hex()); err != nil || p != id {
		t.Errorf("%v, %v", p, err)
	}

	file := s.actionPath(id)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(file, 0o644)
	// Every changed byte of an entry is noticed.
	for i := range whole {
		damaged := append([]byte(nil), whole...)
		damaged[i] ^= 1
		if err := os.WriteFile(file, damaged, 0o644); err != nil {
			t.Fatal(err)
		}
		if e, err := s.Lookup(id); err == nil && e.Outputs["out"] != got.Outputs["out"] {
			t.Fatalf("byte %d changed, but the entry is %v", i, e)
		}
	}
}

// Only one of many holds the lock, its file is removed, and waiting ends with the
// context.
func TestLock(t *testing.T) {
	s := open(t)
	var inside, most atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			unlock, err := s.Lock(t.Context(), "x", nil)
			if err != nil {
				t.Error(err)
				return
			}
			most.Store(max(most.Load(), inside.Add(1)))
			time.Sleep(time.Millisecond)
			inside.Add(-1)
			unlock()
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d held the lock at once", most.Load())
	}
	if left, _ := filepath.Glob(filepath.Join(s.Dir(), "locks", "*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	unlock, err := s.TryLock("x")
	if err != nil || unlock == nil {
		t.Fatal("a free lock could not be taken", err)
	}
	defer unlock()
	// The lock file of a killed process is removed, that of a live one stays.
	if err := os.WriteFile(filepath.Join(s.Dir(), "locks", "dead"), []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.dropStaleLocks()
	if left, _ := filepath.Glob(filepath.Join(s.Dir(), "locks", "*")); len(left) != 1 || filepath.Base(left[0]) != "x" {
		t.Errorf("lock files: %q", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	pid := 0
	if _, err := s.Lock(ctx, "x", func(p int) { pid = p; cancel() }); !errors.Is(err, context.Canceled) || pid != os.Getpid() {
		t.Errorf("%v, held by %d", err, pid)
	}
}

// An artifact is unpacked once, and its tree is not trusted after a reboot.
func TestTree(t *testing.T) {
	s := open(t)
	a := put(t, s, "content")
	var made atomic.Int32
	unpack := func(_ context.Context, file, dir string) error {
		made.Add(1)
		return os.Mkdir(dir, 0o755)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := s.Tree(t.Context(), a, unpack); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("unpacked %d times", made.Load())
	}
	later, err := Open(s.Dir(), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	later.boot = "another"
	scratch, err := later.NewScratch(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	if left, _ := filepath.Glob(filepath.Join(s.Dir(), "trees", "*", "*")); len(left) > 0 {
		t.Errorf("trees of another boot: %q", left)
	}
	// A tree that was touched is unpacked again, by the next process at the latest.
	dir, err := s.Tree(t.Context(), a, unpack)
	if err != nil {
		t.Fatal(err)
	}
	for i, touch := range []func() error{
		func() error { return os.WriteFile(filepath.Join(dir, "more"), nil, 0o644) },
		func() error { return os.Chmod(dir, 0o700) },
		func() error { return os.Remove(dir + fingerprintSuffix) },
	} {
		if err := touch(); err != nil {
			t.Fatal(err)
		}
		next, err := Open(s.Dir(), Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		before := made.Load()
		if _, err := next.Tree(t.Context(), a, unpack); err != nil || made.Load() != before+1 {
			t.Errorf("touch %d: %v, unpacked %d times", i, err, made.Load()-before)
		}
	}
	// A damaged artifact is not unpacked, even if its modification time is unchanged.
	if err := os.RemoveAll(filepath.Join(s.Dir(), "trees", s.boot)); err != nil {
		t.Fatal(err)
	}
	os.MkdirAll(filepath.Dir(dir), 0o755)
	os.Chmod(s.Path(a.Digest), 0o644)
	os.WriteFile(s.Path(a.Digest), []byte("cOntent"), 0o644)
	os.Chtimes(s.Path(a.Digest), sealed, sealed)
	_, err = s.Tree(t.Context(), a, unpack)
	isMiss(t, err, "is damaged")
	failing := func(context.Context, string, string) error { return errors.New("no") }
	if _, err := s.Tree(t.Context(), a, failing); err == nil {
		t.Error("a failed unpack returned a tree")
	}
}

// Runs that begin and end at the same time never remove a live run's directory.
func TestScratch(t *testing.T) {
	parent := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s := open(t)
			for range 50 {
				if _, err := Reclaim(parent); err != nil {
					t.Error(err)
				}
				c, err := s.NewScratch(parent)
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.WriteFile(filepath.Join(c.Dir(), "f"), nil, 0o600); err != nil {
					t.Error(err)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	dead := filepath.Join(parent, "run-dead", "locked")
	if err := os.MkdirAll(filepath.Join(dead, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	os.Chmod(dead, 0o500)
	if n, err := Reclaim(parent); n != 1 || err != nil {
		t.Errorf("reclaimed %d, %v", n, err)
	}
	if left, _ := filepath.Glob(filepath.Join(parent, "*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A delivered file that was touched is a miss.
func TestDeliver(t *testing.T) {
	s := open(t)
	from := filepath.Join(s.Dir(), "tmp", "x")
	to := filepath.Join(t.TempDir(), "sub", "disk")
	if err := os.WriteFile(from, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	a, err := s.Deliver(t.Context(), from, to)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delivered(to, a); err != nil {
		t.Error(err)
	}
	isMiss(t, s.Delivered(to, put(t, s, "another")), "of another build")
	isMiss(t, s.Delivered(to+"2", a), "never written")
	later := time.Now().Add(time.Second)
	os.Chtimes(to, later, later)
	isMiss(t, s.Delivered(to, a), "was changed since")
	os.Remove(to)
	isMiss(t, s.Delivered(to, a), "is gone")
}

func TestContents(t *testing.T) {
	s := open(t)
	key := []byte("k")
	out := put(t, s, strings.Repeat("x", 10000))
	put(t, s, "a package")
	if err := s.Record(NewActionID(key), key, Entry{Outputs: map[string]Artifact{"o": out}, Stage: "pack", Node: "lab/web image"}); err != nil {
		t.Fatal(err)
	}
	all, err := Contents(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]int)
	for _, h := range all {
		files[h.Kind+" "+h.Node] += h.Files
		if h.Digest == out.Digest && (h.Bytes < 10000 || time.Since(h.Used) > time.Minute) {
			t.Errorf("%+v", h)
		}
	}
	if files["stage pack lab/web image"] != 1 || files["packages, sources, logs of failures "] != 1 || files["entries and key texts "] != 2 {
		t.Errorf("%v", files)
	}
}

func TestValid(t *testing.T) {
	good := strings.Repeat("0123456789abcdef", 4)
	for _, s := range []string{"sha256:" + good, "sha256:" + good[1:], "sha256:" + good + "0", "sha256:" + strings.ToUpper(good), good, "", "sha256:", "sha512:" + good + good, "sha256:" + good[1:] + "g"} {
		want := digest.Digest(s).Validate() == nil && strings.HasPrefix(s, "sha256:")
		if valid(digest.Digest(s)) != want {
			t.Errorf("%q: %v, want %v", s, !want, want)
		}
	}
}
