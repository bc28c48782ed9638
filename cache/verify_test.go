// This file tests the search for damage, and read-only stores.

package cache

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every kind of damage is found and reported, and only damaged files are removed.
func TestVerifyAll(t *testing.T) {
	s := open(t)
	var ids []ActionID
	var arts []Artifact
	for _, text := range []string{"one", "two", "three", "four"} {
		a, err := s.PutBytes(t.Context(), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		key := []byte("key of " + text)
		id := NewActionID(key)
		if err := s.Record(id, key, Entry{Outputs: map[string]Artifact{"out": a}, Node: text}); err != nil {
			t.Fatal(err)
		}
		ids, arts = append(ids, id), append(arts, a)
	}
	v, err := s.VerifyAll(t.Context(), false)
	if err != nil || v.Files != 12 || len(v.Damaged) != 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	spoil := func(file, text string) {
		t.Helper()
		fi, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		os.Chmod(file, 0o644)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(file, fi.ModTime(), fi.ModTime()) // as if the disk had flipped a bit
	}
	spoil(s.Path(arts[0].Digest), "ONE")
	spoil(s.actionPath(ids[1]), "{}")
	spoil(s.actionPath(ids[2])+".key", "another key")
	stray := filepath.Join(s.dir, "cas", "ab", "stray")
	if err := os.MkdirAll(filepath.Dir(stray), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stray, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Has(arts[0]); err != nil {
		t.Fatalf("the test proves nothing: a look-up sees the damage: %v", err)
	}
	for _, repair := range []bool{false, true} {
		v, err = s.VerifyAll(t.Context(), repair)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range v.Damaged {
			got = append(got, d.File+": "+d.Reason)
		}
		want := []string{"its content has the digest", "is damaged: its checksum differs", "its content has the digest", "its name is not a digest"}
		for _, w := range want {
			if !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, w) }) {
				t.Errorf("repair %v: no reason contains %q: %q", repair, w, got)
			}
		}
		if len(got) != len(want) {
			t.Errorf("repair %v: %q", repair, got)
		}
	}
	if v, err = s.VerifyAll(t.Context(), false); err != nil || v.Files != 9 || len(v.Damaged) != 0 {
		t.Errorf("after the repair: %+v, %v", v, err)
	}
	if err := s.Has(arts[0]); err == nil {
		t.Error("a damaged artifact is still there")
	}
	if _, err := s.Lookup(ids[3]); err != nil {
		t.Errorf("an undamaged entry is gone: %v", err)
	}
}

// A store that is opened read-only does not change.
func TestReadOnly(t *testing.T) {
	s := open(t)
	a, err := s.PutBytes(t.Context(), []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	file := s.Path(a.Digest)
	os.Chmod(file, 0o644)
	if err := os.WriteFile(file, []byte("cOntent"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := Open(s.dir, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	isMiss(t, r.Has(a), "is damaged")
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the file was removed: %v", err)
	}
	none := filepath.Join(t.TempDir(), "none")
	if r, err = Open(none, Options{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	isMiss(t, r.Has(a), "not in the store")
	if _, err := os.Stat(none); err == nil {
		t.Error("the store was created")
	}
}
