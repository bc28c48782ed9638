package cache

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// aged stores artifacts of 100 kB that were used one hour after another, the
// first one the longest time ago.
func aged(t *testing.T, s *Store, n int) []Artifact {
	t.Helper()
	var all []Artifact
	for i := range n {
		a := put(t, s, strings.Repeat(fmt.Sprintf("%9d\n", i), 10_000))
		when := time.Now().Add(time.Duration(i-n) * time.Hour)
		if err := os.Chtimes(s.Path(a.Digest), when, pinned); err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

func collectable(o CollectOptions, runs string) CollectOptions {
	o.Runs = runs
	if o.Keep == nil {
		o.Keep = func(digest.Digest) string { return "" }
	}
	o.KeepEntry = func(ActionID) bool { return false }
	return o
}

func here(s *Store, all []Artifact) string {
	var b strings.Builder
	for _, a := range all {
		if _, err := os.Lstat(s.Path(a.Digest)); err == nil {
			b.WriteByte('x')
		} else {
			b.WriteByte('.')
		}
	}
	return b.String()
}

func TestCollect(t *testing.T) {
	for name, test := range map[string]struct {
		o       CollectOptions
		use     int // the artifact that is used before
		keep    int
		want    string
		missing bool
	}{
		"nothing asked":   {CollectOptions{}, -1, -1, "xxxxx", false},
		"limit":           {CollectOptions{MaxSize: 320_000}, -1, -1, "..xxx", false},
		"used again":      {CollectOptions{MaxSize: 320_000}, 0, -1, "x..xx", false},
		"kept":            {CollectOptions{MaxSize: 320_000}, -1, 1, ".x.xx", false},
		"older":           {CollectOptions{OlderThan: 210 * time.Minute}, -1, -1, "..xxx", false},
		"older but kept":  {CollectOptions{OlderThan: 210 * time.Minute}, -1, 0, "x.xxx", false},
		"too small":       {CollectOptions{MaxSize: 1}, -1, 2, "..x..", true},
		"dry run":         {CollectOptions{MaxSize: 320_000, DryRun: true}, -1, -1, "xxxxx", false},
		"room that is no": {CollectOptions{MinFree: 1 << 60}, -1, -1, ".....", true},
		"room enough":     {CollectOptions{MinFree: 1}, -1, -1, "xxxxx", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			all := aged(t, s, 5)
			if test.use >= 0 {
				if err := s.Has(all[test.use]); err != nil {
					t.Fatal(err)
				}
			}
			if test.keep >= 0 {
				test.o.Keep = func(d digest.Digest) string {
					if d == all[test.keep].Digest {
						return "test"
					}
					return ""
				}
			}
			r, err := s.Collect(t.Context(), collectable(test.o, t.TempDir()))
			if err != nil {
				t.Fatal(err)
			}
			if got := here(s, all); got != test.want || r.Missing > 0 != test.missing {
				t.Errorf("%s, want %s; %+v", got, test.want, r)
			}
			if test.keep >= 0 && r.Kept["test"] < 100_000 {
				t.Errorf("kept %v", r.Kept)
			}
			if after := r.Before - int64(len(r.Removed))*int64(r.Before/5); r.After > after+20_000 {
				t.Errorf("%d bytes before, %d after, %d removed", r.Before, r.After, len(r.Removed))
			}
		})
	}
}

// An entry goes with the last of its outputs, and its log with it.
func TestCollectEntries(t *testing.T) {
	s := open(t)
	all := aged(t, s, 3)
	log := put(t, s, "what it said")
	keys := [][]byte{[]byte("one"), []byte("two")}
	for i, outputs := range []map[string]Artifact{{"a": all[0], "b": all[1]}, {"a": all[0], "b": all[2]}} {
		if err := s.Record(NewActionID(keys[i]), keys[i], Entry{Outputs: outputs, Log: &log}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Collect(t.Context(), collectable(CollectOptions{OlderThan: 90 * time.Minute}, t.TempDir())); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lookup(NewActionID(keys[0])); err == nil || here(s, all) != "..x" {
		t.Errorf("%v, %s", err, here(s, all))
	}
	if _, err := s.Lookup(NewActionID(keys[1])); err != nil || s.Has(log) != nil {
		t.Errorf("an entry with an output left: %v, its log: %v", err, s.Has(log))
	}
}

// What a run has looked for since it began stays as long as the run lives.
func TestCollectBesideARun(t *testing.T) {
	s := open(t)
	all := aged(t, s, 3)
	runs := t.TempDir()
	scratch, err := s.NewScratch(runs)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Has(all[1]); err != nil {
		t.Fatal(err)
	}
	other, err := Open(s.Dir(), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	r, err := other.Collect(t.Context(), collectable(CollectOptions{MaxSize: 1}, runs))
	if err != nil || here(s, all) != ".x." || r.Busy < 100_000 {
		t.Errorf("%v, %s, %+v", err, here(s, all), r)
	}
	scratch.Close()
	if _, err := other.Collect(t.Context(), collectable(CollectOptions{MaxSize: 1}, runs)); err != nil || here(s, all) != "..." {
		t.Errorf("after its end: %v, %s", err, here(s, all))
	}
}

// An artifact that a run was told is there is there when it opens it, whoever
// collects meanwhile.
func TestCollectRace(t *testing.T) {
	s := open(t)
	runs := t.TempDir()
	scratch, err := s.NewScratch(runs)
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	other, err := Open(s.Dir(), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	all := aged(t, s, 300)
	ctx, cancel := context.WithCancel(t.Context())
	var collected sync.WaitGroup
	collected.Go(func() {
		for ctx.Err() == nil {
			other.Collect(ctx, collectable(CollectOptions{MaxSize: 1}, runs))
		}
	})
	found := 0
	var looked sync.WaitGroup
	var mu sync.Mutex
	for part := range 4 {
		looked.Go(func() {
			for i := part; i < len(all); i += 4 {
				if s.Has(all[len(all)-1-i]) != nil {
					continue
				}
				time.Sleep(time.Millisecond)
				if _, err := os.ReadFile(s.Path(all[len(all)-1-i].Digest)); err != nil {
					t.Error(err)
				}
				mu.Lock()
				found++
				mu.Unlock()
			}
		})
	}
	looked.Wait()
	cancel()
	collected.Wait()
	if found == 0 {
		t.Error("all was collected before it was looked for: this proves nothing")
	}
	t.Logf("%d of %d were found", found, len(all))
}

// An unpacked layer is collected like others, and made again.
func TestCollectTrees(t *testing.T) {
	s := open(t)
	runs := t.TempDir()
	scratch, err := s.NewScratch(runs)
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	a := put(t, s, "layer")
	unpack := func(_ context.Context, _, dir string) error {
		if err := os.MkdirAll(filepath.Join(dir, "closed"), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "file"), make([]byte, 50_000), 0o644)
	}
	dir, err := s.Tree(t.Context(), a, unpack)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := Contents(s.Dir()); err != nil || !strings.Contains(fmt.Sprint(all), KindTree) {
		t.Errorf("%v, %v", all, err)
	}
	other, err := Open(s.Dir(), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Collect(t.Context(), collectable(CollectOptions{MaxSize: 1}, runs)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); err != nil {
		t.Errorf("beside a run that uses it: %v", err)
	}
	if _, err := other.Collect(t.Context(), collectable(CollectOptions{MaxSize: 1}, t.TempDir())); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{dir, dir + lookSuffix} {
		if _, err := os.Lstat(f); err == nil {
			t.Errorf("%s is still there", f)
		}
	}
}

func TestPin(t *testing.T) {
	s := open(t)
	a := put(t, s, "x")
	if err := s.Pin("lab/web", []digest.Digest{a.Digest}); err != nil {
		t.Fatal(err)
	}
	pins, err := s.Pins()
	if err != nil || len(pins) != 1 || len(pins["lab/web"]) != 1 || pins["lab/web"][0] != a.Digest {
		t.Errorf("%v, %v", pins, err)
	}
	if err := s.Unpin("lab/web"); err != nil {
		t.Error(err)
	}
	if err := s.Unpin("lab/web"); err == nil {
		t.Error("unpinned twice")
	}
}

// 10,000 artifacts of 5,000 entries are looked at within a moment.
func BenchmarkContents(b *testing.B) {
	s := open(b)
	for i := range 5000 {
		outs := make(map[string]Artifact)
		for _, o := range []string{"a", "b"} {
			a, err := s.PutBytes(b.Context(), fmt.Appendf(nil, "%d %s", i, o))
			if err != nil {
				b.Fatal(err)
			}
			outs[o] = a
		}
		key := fmt.Appendf(nil, "key %d", i)
		if err := s.Record(NewActionID(key), key, Entry{Outputs: outs, Stage: "pack", Node: "lab/web image"}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := Contents(s.Dir()); err != nil {
			b.Fatal(err)
		}
	}
}
