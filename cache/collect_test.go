// This file tests collections and pins.

package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// aged stores n artifacts of 100 kB, the last one used an hour ago, and each other one an
// hour before the next.
func aged(t *testing.T, s *Store, n int) []Artifact {
	t.Helper()
	var all []Artifact
	for i := range n {
		a := put(t, s, strings.Repeat(fmt.Sprintf("%9d\n", i), 10_000))
		when := time.Now().Add(time.Duration(i-n) * time.Hour)
		if err := os.Chtimes(s.Path(a.Digest), when, sealed); err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

// collectable returns o with the runs and with the roots, whose reason is "test".
func collectable(o CollectOptions, runs string, roots ...digest.Digest) CollectOptions {
	o.Runs = runs
	o.Roots = func() (Roots, error) {
		r := Roots{Artifacts: make(map[digest.Digest]string)}
		for _, d := range roots {
			r.Artifacts[d] = "test"
		}
		return r, nil
	}
	return o
}

// here returns a letter for each artifact: x if the store has it, else a dot.
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
		use     int // index of the artifact to use before, or -1
		root    int // index of the root, or -1
		want    string
		missing bool
	}{
		"nothing asked":   {CollectOptions{}, -1, -1, "xxxxx", false},
		"limit":           {CollectOptions{MaxSize: 320_000}, -1, -1, "..xxx", false},
		"used again":      {CollectOptions{MaxSize: 320_000}, 0, -1, "x..xx", false},
		"root":            {CollectOptions{MaxSize: 320_000}, -1, 1, ".x.xx", false},
		"older":           {CollectOptions{OlderThan: 210 * time.Minute}, -1, -1, "..xxx", false},
		"older but root":  {CollectOptions{OlderThan: 210 * time.Minute}, -1, 0, "x.xxx", false},
		"too small":       {CollectOptions{MaxSize: 1}, -1, 2, "..x..", true},
		"dry run":         {CollectOptions{MaxSize: 320_000, DryRun: true}, -1, -1, "xxxxx", false},
		"too little free": {CollectOptions{MinFree: 1 << 60}, -1, -1, ".....", true},
		"enough free":     {CollectOptions{MinFree: 1}, -1, -1, "xxxxx", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			all := aged(t, s, 5)
			if test.use >= 0 {
				if err := s.Has(all[test.use]); err != nil {
					t.Fatal(err)
				}
			}
			var roots []digest.Digest
			if test.root >= 0 {
				roots = append(roots, all[test.root].Digest)
			}
			r, err := s.Collect(t.Context(), collectable(test.o, t.TempDir(), roots...))
			if err != nil {
				t.Fatal(err)
			}
			if got := here(s, all); got != test.want || r.Missing > 0 != test.missing {
				t.Errorf("%s, want %s; %+v", got, test.want, r)
			}
			if test.root >= 0 && r.Retained["test"] < 100_000 {
				t.Errorf("retained %v", r.Retained)
			}
			if after := r.Before - int64(len(r.Removed))*int64(r.Before/5); r.After > after+20_000 {
				t.Errorf("%d bytes before, %d after, %d removed", r.Before, r.After, len(r.Removed))
			}
		})
	}
}

// The caller's areas count, and only the items of removable ones are removed.
func TestCollectAreas(t *testing.T) {
	s := open(t)
	areas := []Area{
		{Kind: "preserved", Dir: t.TempDir()},
		{Kind: "removable", Dir: filepath.Join(s.Dir(), "removable"), Removable: true},
		{Kind: "aging", Dir: filepath.Join(s.Dir(), "aging"), Removable: true, MinAge: time.Hour},
		{Kind: "missing", Dir: filepath.Join(s.Dir(), "missing"), Removable: true},
	}
	now := time.Now()
	for name, age := range map[string]time.Duration{
		areas[0].Dir + "/old": 2 * time.Hour, areas[1].Dir + "/new/sub/file": 0, areas[2].Dir + "/old": 2 * time.Hour, areas[2].Dir + "/new": time.Minute,
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, make([]byte, 5000), 0o644), os.Chtimes(name, now, now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Contents(s.Dir(), areas...)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]int)
	for _, item := range all {
		files[item.Kind] += item.Files
	}
	if files["preserved"] != 1 || files["removable"] != 1 || files["aging"] != 2 || files["missing"] != 0 {
		t.Errorf("%v", files)
	}
	r, err := s.Collect(t.Context(), collectable(CollectOptions{MaxSize: 1, Areas: areas}, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, area := range areas {
		for _, file := range filesIn(area.Dir) {
			left = append(left, area.Kind+" "+filepath.Base(file))
		}
	}
	if got := strings.Join(left, ", "); got != "preserved old, aging new" {
		t.Errorf("left: %s", got)
	}
	if r.Retained["preserved"] < 5000 || r.Retained["aging"] < 5000 || r.Missing == 0 {
		t.Errorf("%+v", r)
	}
}

// An entry is removed with the last of its outputs, and its log with it.
func TestCollectEntries(t *testing.T) {
	s := open(t)
	all := aged(t, s, 3)
	log := put(t, s, "the log")
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
		t.Errorf("an entry with a remaining output: %v, its log: %v", err, s.Has(log))
	}
}

// An artifact that a live run has used stays as long as the run lives.
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
		t.Errorf("after the end of the run: %v, %s", err, here(s, all))
	}
}

// An artifact that a run has found still exists when the run opens it, even if another
// process collects meanwhile.
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
	marked := make(chan struct{}) // the first one is found
	var first sync.Once
	var collected sync.WaitGroup
	collected.Go(func() {
		select {
		case <-marked:
		case <-ctx.Done():
		}
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
				first.Do(func() { close(marked) })
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
		t.Error("everything was collected before the first look-up: the test proves nothing")
	}
	t.Logf("%d of %d were found", found, len(all))
}

// An unpacked tree is collected like other items.
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
		t.Errorf("beside a run that uses the tree: %v", err)
	}
	if _, err := other.Collect(t.Context(), collectable(CollectOptions{MaxSize: 1}, t.TempDir())); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{dir, dir + fingerprintSuffix} {
		if _, err := os.Lstat(f); err == nil {
			t.Errorf("%s is still there", f)
		}
	}
}

// A collection reads the roots again if a run began and ended meanwhile.
func TestCollectReadsRootsAgain(t *testing.T) {
	s := open(t)
	all := aged(t, s, collectBatch+2)
	runs := t.TempDir()
	asked := 0
	o := CollectOptions{MaxSize: 1, Runs: runs, Roots: func() (Roots, error) {
		if asked++; asked > 1 {
			return Roots{Artifacts: map[digest.Digest]string{all[len(all)-1].Digest: "made meanwhile"}}, nil
		}
		c, err := NewScratch(runs)
		if err != nil {
			t.Fatal(err)
		}
		return Roots{}, c.Close()
	}}
	if _, err := s.Collect(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := here(s, all[len(all)-1:]); asked < 2 || got != "x" {
		t.Errorf("the roots were read %d times, the new one is %s", asked, got)
	}
}

// A clock that is set back during a run does not make its artifacts look older than the
// run.
func TestCollectClockSetBack(t *testing.T) {
	s := open(t)
	all := aged(t, s, 2)
	runs := t.TempDir()
	scratch, err := s.NewScratch(runs)
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	s.now = func() time.Time { return time.Now().Add(-50 * time.Minute) }
	if err := s.Has(all[1]); err != nil {
		t.Fatal(err)
	}
	fresh := put(t, s, "made meanwhile")
	other, err := Open(s.Dir(), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Collect(t.Context(), collectable(CollectOptions{MaxSize: 1}, runs)); err != nil {
		t.Fatal(err)
	}
	if got := here(s, append(all, fresh)); got != ".xx" {
		t.Errorf("%s, want .xx", got)
	}
}

// A tree is collected without its artifact.
func TestCollectTreeAlone(t *testing.T) {
	s := open(t)
	a := put(t, s, "layer")
	key := []byte("k")
	if err := s.Record(NewActionID(key), key, Entry{Outputs: map[string]Artifact{"layer": a}}); err != nil {
		t.Fatal(err)
	}
	runs := t.TempDir()
	scratch, err := s.NewScratch(runs)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.Tree(t.Context(), a, func(_ context.Context, _, dir string) error { return os.Mkdir(dir, 0o755) })
	if err != nil {
		t.Fatal(err)
	}
	scratch.Close()
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(dir+fingerprintSuffix, time.Time{}, old); err != nil {
		t.Fatal(err)
	}
	if all, err := Contents(s.Dir()); err != nil || len(all) == 0 {
		t.Fatal(err) // a scan reads the fingerprint, which is not a use of the tree
	}
	if s, err = Open(s.Dir(), Options{NoSync: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), collectable(CollectOptions{OlderThan: time.Hour}, runs)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("the tree is still there")
	}
	if _, err := s.Lookup(NewActionID(key)); err != nil || s.Has(a) != nil {
		t.Errorf("the layer: %v, its entry: %v", s.Has(a), err)
	}
}

// An entry with invalid digests is a miss, and asking for a wrong size does not drop the
// artifact.
func TestHostileEntries(t *testing.T) {
	s := open(t)
	a := put(t, s, "whole")
	for i, e := range []Entry{{Log: &Artifact{Digest: "x"}}, {Outputs: map[string]Artifact{"o": {Digest: "sha256_1"}}}} {
		key := fmt.Appendf(nil, "key %d", i)
		if err := s.Record(NewActionID(key), key, e); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Lookup(NewActionID(key)); err == nil {
			t.Error("an entry with an invalid digest was accepted")
		}
	}
	if _, err := s.Collect(t.Context(), collectable(CollectOptions{OlderThan: time.Hour}, t.TempDir())); err != nil {
		t.Error(err)
	}
	if err := s.Has(Artifact{a.Digest, a.Size + 1}); err == nil {
		t.Error("the store has an artifact of another size")
	}
	if err := s.Has(a); err != nil {
		t.Errorf("asking for another size dropped the artifact: %v", err)
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
