package main

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
)

// records are the builds that data remembers.
type records struct{ dir string }

// keep writes a record down, unless the newest of its name says the same: of
// that, only the time is kept. fill adds the stages. Until it is whole it is
// in scratch, a directory of the same file system. It is a memory that costs
// nothing to lose.
func (rs records) keep(scratch string, b *buildRecord, fill func(*buildRecord)) error {
	if err := os.MkdirAll(rs.dir, 0o755); err != nil {
		return err
	}
	ids, err := rs.ids(b.Name)
	if err != nil {
		return err
	}
	if len(ids) > 0 && b.Ran == 0 && b.Result == "ok" {
		if was, err := rs.head(ids[len(ids)-1]); err == nil && was.Sum == b.Sum {
			now := time.Now()
			return os.Chtimes(rs.file(was.ID), now, now)
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
	if err := rs.write(scratch, b); err != nil {
		return err
	}
	return rs.prune(b.Name)
}

// prune forgets the oldest builds, but none that tells what a current image is.
func (rs records) prune(name string) error {
	ids, err := rs.ids(name)
	if err != nil || len(ids) <= keptRecords {
		return err
	}
	newest, err := rs.newestHeads(name, nil)
	if err != nil {
		return err
	}
	for _, id := range ids[:len(ids)-keptRecords] {
		if !slices.ContainsFunc(newest, func(h *recordHead) bool { return h.ID == id }) {
			os.Remove(rs.file(id))
		}
	}
	return nil
}

func (rs records) write(scratch string, b *buildRecord) error {
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	enc := json.NewEncoder(z)
	if err := errors.Join(enc.Encode(b.recordHead), enc.Encode(b.Stages), z.Close()); err != nil {
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
	return os.Rename(f.Name(), rs.file(b.ID))
}

func (rs records) file(id string) string { return filepath.Join(rs.dir, id+recordSuffix) }

// ids are the builds of that name, or all, the oldest first.
func (rs records) ids(name string) ([]string, error) {
	entries, err := os.ReadDir(rs.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	var ids []string
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if ok && (name == "" || nameOf(id) == name) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// nameOf is what an id says was built.
func nameOf(id string) string {
	if f := strings.SplitN(id, "-", 3); len(f) == 3 {
		return f[2]
	}
	return ""
}

// find is the build that a user calls so: by its id or the beginning of one, or
// by what was built, then the newest of it; NAME~1 is the one before that, and
// "" the newest of all.
func (rs records) find(what string) (*buildRecord, error) {
	ids, err := rs.ids("")
	if err != nil {
		return nil, err
	}
	name, back := what, 0
	if i := strings.LastIndexByte(what, '~'); i >= 0 {
		if _, err := fmt.Sscanf(what[i:], "~%d", &back); err != nil || back < 0 {
			return nil, usageError{fmt.Errorf("%s: what is behind ~ is no number", what)}
		}
		name = what[:i]
	}
	var same, begin []string
	for _, id := range ids {
		switch {
		case id == what:
			return rs.read(id)
		case name == "" || nameOf(id) == name:
			same = append(same, id)
		case strings.HasPrefix(id, what):
			begin = append(begin, id)
		}
	}
	switch {
	case len(same) > back:
		return rs.read(same[len(same)-1-back])
	case len(same) > 0:
		return nil, usageError{fmt.Errorf("%s: only %d builds are remembered (meros history)", what, len(same))}
	case len(begin) == 1:
		return rs.read(begin[0])
	case len(begin) > 1:
		return nil, usageError{fmt.Errorf("%s: %d builds begin so (meros history)", what, len(begin))}
	case what == "":
		return nil, usageError{errors.New("no build is remembered yet (meros build makes one)")}
	}
	return nil, usageError{fmt.Errorf("%s: no such build is remembered (meros history)", what)}
}

func (rs records) decode(id string, values ...any) error {
	f, err := os.Open(rs.file(id))
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

func (rs records) head(id string) (*recordHead, error) {
	h := new(recordHead)
	return h, rs.decode(id, h)
}

func (rs records) read(id string) (*buildRecord, error) {
	b := new(buildRecord)
	if err := rs.decode(id, &b.recordHead, &b.Stages); err != nil {
		return nil, err
	}
	for _, s := range b.Stages {
		for _, in := range s.Inputs {
			if in < 0 || in >= len(b.Stages) {
				return nil, fmt.Errorf("read the record of %s: it is damaged", id)
			}
		}
	}
	return b, nil
}

// before is the build of the same name before b, or nil.
func (rs records) before(b *buildRecord) *buildRecord {
	ids, err := rs.ids(b.Name)
	if err != nil {
		return nil
	}
	i := slices.Index(ids, b.ID)
	if i <= 0 {
		return nil
	}
	was, err := rs.read(ids[i-1])
	if err != nil {
		return nil
	}
	return was
}

// newest are the newest builds that went well: of each machine one for each
// verb. machines, if not nil, are those that count. A record that cannot be
// read is of no use to anybody.
func (rs records) newest(name string, machines []string) ([]*buildRecord, error) {
	heads, err := rs.newestHeads(name, machines)
	if err != nil {
		return nil, err
	}
	var all []*buildRecord
	for _, h := range heads {
		if b, err := rs.read(h.ID); err == nil {
			all = append(all, b)
		}
	}
	return all, nil
}

// newestHeads are the heads of those builds. Which is newer is told by when it
// was found to be so the last time.
func (rs records) newestHeads(name string, machines []string) ([]*recordHead, error) {
	ids, err := rs.ids(name)
	if err != nil {
		return nil, err
	}
	when := make(map[string]time.Time)
	for _, id := range ids {
		if fi, err := os.Stat(rs.file(id)); err == nil {
			when[id] = fi.ModTime()
		}
	}
	slices.SortStableFunc(ids, func(a, b string) int { return when[a].Compare(when[b]) })
	var all []*recordHead
	seen := make(map[string]bool)
	for _, id := range slices.Backward(ids) {
		h, err := rs.head(id)
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
