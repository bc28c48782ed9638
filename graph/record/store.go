// This file stores records of builds in a directory, one file for each, and finds
// them by what a user calls them.

package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"meros/runner/hint"
)

// suffix ends the name of a record's file. The file is two compressed JSON
// values: the head and the nodes.
const suffix = ".json.zst"

// MaxBuilds is the largest number of records of one name.
const MaxBuilds = 50

// Store is a directory of records.
type Store struct{ Dir string }

// Save writes a record, and gives it an ID. If the newest record of its name says
// the same, Save only updates the time of that one. fill adds the nodes. The file
// is complete before it gets its name; until then it lies in scratch, a directory
// of the same file system.
func (s Store) Save(scratch string, b *Build, fill func(*Build)) error {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	ids, err := s.IDs(b.Name)
	if err != nil {
		return err
	}
	if len(ids) > 0 && b.Ran == 0 && b.Result == "ok" {
		if was, err := s.Head(ids[len(ids)-1]); err == nil && was.Sum == b.Sum {
			now := time.Now()
			return os.Chtimes(s.file(was.ID), now, now)
		}
	}
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == os.PathSeparator || r < ' ' {
			return '_'
		}
		return r
	}, b.Name)
	b.ID = b.Began.Format("20060102-150405") + "-" + name
	for i := 2; slices.Contains(ids, b.ID); i++ {
		b.ID = fmt.Sprintf("%s.%d-%s", b.Began.Format("20060102-150405"), i, name)
	}
	fill(b)
	if err := s.write(scratch, b); err != nil {
		return err
	}
	return s.prune(b.Name)
}

// prune removes the oldest records of a name, but not those that describe a
// current image.
func (s Store) prune(name string) error {
	ids, err := s.IDs(name)
	if err != nil || len(ids) <= MaxBuilds {
		return err
	}
	newest, err := s.newestHeads(name, nil)
	if err != nil {
		return err
	}
	for _, id := range ids[:len(ids)-MaxBuilds] {
		if !slices.ContainsFunc(newest, func(h *Head) bool { return h.ID == id }) {
			os.Remove(s.file(id))
		}
	}
	return nil
}

func (s Store) write(scratch string, b *Build) error {
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	enc := json.NewEncoder(z)
	if err := errors.Join(enc.Encode(b.Head), enc.Encode(b.Stages), z.Close()); err != nil {
		return err
	}
	f, err := os.CreateTemp(scratch, "record-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(buf.Bytes())
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.file(b.ID))
}

func (s Store) file(id string) string { return filepath.Join(s.Dir, id+suffix) }

// IDs returns the records of a name, or all if name is empty, the oldest first.
func (s Store) IDs(name string) ([]string, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	var ids []string
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), suffix)
		if ok && (name == "" || nameOf(id) == name) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// nameOf returns the name of what was built.
func nameOf(id string) string {
	if f := strings.SplitN(id, "-", 3); len(f) == 3 {
		return f[2]
	}
	return ""
}

// QueryError says that the user named a build that is not remembered.
type QueryError struct{ error }

// Unwrap returns the error with its hint.
func (e QueryError) Unwrap() error { return e.error }

func queryError(format string, args ...any) error {
	return QueryError{hint.Add(fmt.Errorf(format, args...), "`meros history` lists the builds")}
}

// Find returns the build that a user means: an ID, the beginning of one, or a
// name. A name means its newest build, NAME~1 the one before that, "" the newest
// of all. The error is a [QueryError] if there is no such build.
func (s Store) Find(what string) (*Build, error) {
	ids, err := s.IDs("")
	if err != nil {
		return nil, err
	}
	name, back := what, 0
	if i := strings.LastIndexByte(what, '~'); i >= 0 {
		if _, err := fmt.Sscanf(what[i:], "~%d", &back); err != nil || back < 0 {
			return nil, queryError("%s: not a number after ~", what)
		}
		name = what[:i]
	}
	var same, begin []string
	for _, id := range ids {
		switch {
		case id == what:
			return s.Read(id)
		case name == "" || nameOf(id) == name:
			same = append(same, id)
		case strings.HasPrefix(id, what):
			begin = append(begin, id)
		}
	}
	switch {
	case len(same) > back:
		return s.Read(same[len(same)-1-back])
	case len(same) > 0:
		return nil, queryError("%s: only %d builds are remembered", what, len(same))
	case len(begin) == 1:
		return s.Read(begin[0])
	case len(begin) > 1:
		return nil, queryError("%s: %d builds begin with it", what, len(begin))
	case what == "":
		return nil, QueryError{hint.Add(errors.New("no build is remembered yet"), "`meros build` makes one")}
	}
	return nil, queryError("%s: no such build is remembered", what)
}

// decode reads the first values of a record.
func (s Store) decode(id string, values ...any) error {
	f, err := os.Open(s.file(id))
	if err != nil {
		return fmt.Errorf("read the record of %s: %w", id, err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		return err
	}
	defer z.Close()
	dec := json.NewDecoder(io.LimitReader(z, 1<<30))
	for _, v := range values {
		if err := dec.Decode(v); err != nil {
			return fmt.Errorf("read the record of %s: %w", id, err)
		}
	}
	return nil
}

// Head reads the summary of a build.
func (s Store) Head(id string) (*Head, error) {
	h := new(Head)
	return h, s.decode(id, h)
}

// Read reads the record of a build.
func (s Store) Read(id string) (*Build, error) {
	b := new(Build)
	if err := s.decode(id, &b.Head, &b.Stages); err != nil {
		return nil, err
	}
	for _, n := range b.Stages {
		for _, in := range n.Inputs {
			if in < 0 || in >= len(b.Stages) {
				return nil, fmt.Errorf("read the record of %s: it is damaged", id)
			}
		}
	}
	return b, nil
}

// Before returns the build of the same name before b, or nil.
func (s Store) Before(b *Build) *Build {
	ids, err := s.IDs(b.Name)
	if err != nil {
		return nil
	}
	i := slices.Index(ids, b.ID)
	if i <= 0 {
		return nil
	}
	was, err := s.Read(ids[i-1])
	if err != nil {
		return nil
	}
	return was
}

// Newest returns the newest successful builds of a name: one for each machine and
// verb. Other machines than those do not count; nil means all count. Newest
// leaves out a record that it cannot read.
func (s Store) Newest(name string, machines []string) ([]*Build, error) {
	heads, err := s.newestHeads(name, machines)
	if err != nil {
		return nil, err
	}
	var all []*Build
	for _, h := range heads {
		if b, err := s.Read(h.ID); err == nil {
			all = append(all, b)
		}
	}
	return all, nil
}

// newestHeads returns the heads of those builds. It compares the times of the
// files, which Save updates.
func (s Store) newestHeads(name string, machines []string) ([]*Head, error) {
	ids, err := s.IDs(name)
	if err != nil {
		return nil, err
	}
	when := make(map[string]time.Time)
	for _, id := range ids {
		if fi, err := os.Stat(s.file(id)); err == nil {
			when[id] = fi.ModTime()
		}
	}
	slices.SortStableFunc(ids, func(a, b string) int { return when[a].Compare(when[b]) })
	var all []*Head
	seen := make(map[string]bool)
	for _, id := range slices.Backward(ids) {
		h, err := s.Head(id)
		if err != nil || h.Result != "ok" || h.Verb == "export" {
			continue
		}
		wanted := false
		for _, m := range h.Machines {
			if key := h.Verb + " " + m; !seen[key] && (machines == nil || slices.Contains(machines, m)) {
				seen[key], wanted = true, true
			}
		}
		if wanted {
			all = append(all, h)
		}
	}
	return all, nil
}
