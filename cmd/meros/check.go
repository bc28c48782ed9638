package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"meros/cache"
	"meros/graph"
	"meros/stages/step"
)

// checker builds a plan a second time, from its downloads on.
type checker struct {
	*workspace
	again *cache.Store // with nothing in it but the downloads, and what foreign networks gave
	first *graph.Result
}

// seed puts into the second store what comes from a network: the downloads, and
// what stages gave whose key does not determine it.
func (c *checker) seed(plan *graph.Plan) (impure int, err error) {
	for _, n := range plan.Nodes {
		id := c.first.Actions[n]
		outputs := c.first.Outputs[n]
		switch {
		case n.Fixed != nil:
		case n.Impure && !id.IsZero():
			impure++
			text, err := c.store.KeyText(id)
			if err != nil {
				return 0, err
			}
			entry, err := c.store.Lookup(id)
			if err != nil {
				return 0, err
			}
			if err := c.again.Record(id, text, *entry); err != nil {
				return 0, err
			}
		default:
			continue
		}
		for _, a := range outputs {
			if err := c.share(a); err != nil {
				return 0, err
			}
		}
	}
	return impure, nil
}

// share gives the second store an artifact of the first, if that has it.
func (c *checker) share(a cache.Artifact) error {
	to := c.again.Path(a.Digest)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	err := os.Link(c.store.Path(a.Digest), to)
	if errors.Is(err, os.ErrExist) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// compare finds the first node that was given the same and gave something else.
func (c *checker) compare(plan *graph.Plan, second *graph.Result) error {
	for _, n := range plan.Nodes {
		if n.Fixed != nil || c.first.Actions[n] != second.Actions[n] {
			continue // what goes into it differs already
		}
		for _, o := range n.Outputs {
			a, b := c.first.Outputs[n][o], second.Outputs[n][o]
			if a.Digest == b.Digest || a.Digest == "" || b.Digest == "" {
				continue
			}
			where, err := differAt(c.store.Path(a.Digest), c.again.Path(b.Digest))
			if err != nil {
				where = err.Error()
			}
			return fmt.Errorf("%s is not reproducible: its output %q was %s and is %s: %s (the key, which is the same: data/cache/actions/%s)",
				n.Name, o, a.Digest.Encoded()[:12], b.Digest.Encoded()[:12], where, filepath.Join(c.first.Actions[n].Hex()[:2], c.first.Actions[n].Hex()+".key"))
		}
	}
	return nil
}

// differAt tells where two files differ: of layers, in which of their files.
func differAt(one, other string) (string, error) {
	a, err := os.Open(one)
	if err != nil {
		return "", err
	}
	defer a.Close()
	b, err := os.Open(other)
	if err != nil {
		return "", err
	}
	defer b.Close()
	if where := differInTar(a, b); where != "" {
		return where, nil
	}
	for _, f := range []*os.File{a, b} {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", err
		}
	}
	at, err := firstDifference(a, b)
	return fmt.Sprintf("first at byte %d", at), err
}

// differInTar compares two archives entry by entry, or returns "" if they are
// none.
func differInTar(a, b io.Reader) string {
	x, y := tar.NewReader(a), tar.NewReader(b)
	for {
		h, errX := x.Next()
		g, errY := y.Next()
		switch {
		case errX == io.EOF && errY == nil:
			return g.Name + " is there the second time only"
		case errY == io.EOF && errX == nil:
			return h.Name + " is there the first time only"
		case errX != nil || errY != nil:
			return ""
		case h.Name < g.Name:
			return h.Name + " is there the first time only"
		case h.Name > g.Name:
			return g.Name + " is there the second time only"
		}
		if text := differInHeader(h, g); text != "" {
			return h.Name + ": " + text
		}
		var one, other bytes.Buffer
		sx, sy := sha256.New(), sha256.New()
		io.Copy(io.MultiWriter(sx, &head{&one}), x)
		io.Copy(io.MultiWriter(sy, &head{&other}), y)
		if p, q := hex.EncodeToString(sx.Sum(nil)), hex.EncodeToString(sy.Sum(nil)); p != q {
			at, _ := firstDifference(&one, &other)
			return fmt.Sprintf("%s: its content differs, first at byte %d", h.Name, at)
		}
	}
}

// head keeps the beginning of what is written to it.
type head struct{ *bytes.Buffer }

func (h *head) Write(b []byte) (int, error) {
	if room := 16<<20 - h.Len(); room > 0 {
		h.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

func differInHeader(h, g *tar.Header) string {
	for _, f := range []struct{ name, one, other string }{
		{"type", string(h.Typeflag), string(g.Typeflag)}, {"mode", fmt.Sprintf("%o", h.Mode), fmt.Sprintf("%o", g.Mode)},
		{"owner", fmt.Sprintf("%d:%d", h.Uid, h.Gid), fmt.Sprintf("%d:%d", g.Uid, g.Gid)}, {"link", h.Linkname, g.Linkname},
		{"time", h.ModTime.UTC().String(), g.ModTime.UTC().String()}, {"size", fmt.Sprint(h.Size), fmt.Sprint(g.Size)},
		{"attributes", fmt.Sprint(h.PAXRecords), fmt.Sprint(g.PAXRecords)},
	} {
		if f.one != f.other {
			return fmt.Sprintf("its %s was %s and is %s", f.name, strings.TrimSpace(f.one), strings.TrimSpace(f.other))
		}
	}
	return ""
}

// firstDifference is the number of bytes that two files begin with in common.
func firstDifference(a, b io.Reader) (int64, error) {
	x, y := bufio.NewReaderSize(a, 1<<20), bufio.NewReaderSize(b, 1<<20)
	for at := int64(0); ; at++ {
		c, errX := x.ReadByte()
		d, errY := y.ReadByte()
		if errX != nil || errY != nil || c != d {
			if errX == io.EOF {
				errX = nil
			}
			if errY == io.EOF {
				errY = nil
			}
			return at, errors.Join(errX, errY)
		}
	}
}

// check builds all that a build has given once more, in fresh directories, and
// compares. The error names the stage that gave other bytes from the same ones.
func (w *workspace) check(e *env, plan *graph.Plan, targets []*graph.Node, first *graph.Result, jobs int) error {
	dir := filepath.Join(w.scratch.Dir(), "check")
	again, err := cache.Open(dir, cache.Options{NoSync: true})
	if err != nil {
		return err
	}
	c := &checker{w, again, first}
	impure, err := c.seed(plan)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	var checked []*graph.Node
	for _, t := range targets {
		if t.Deliver == "" && t.Stage != "boot" { // a copy, and a verdict that has a time in it
			checked = append(checked, t)
		}
	}
	if jobs == 0 {
		jobs = runtime.NumCPU()
	}
	o, err := w.graphOptions(jobs, step.Watch)
	if err != nil {
		return err
	}
	o.Store, o.Observe = again, e.ui.event
	e.ui.note("building all of it again, to compare")
	e.ui.begin(false, nil, w.history, jobs)
	defer e.ui.end()
	second, err := graph.Build(e.ctx, plan, checked, o)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if err := c.compare(plan, second); err != nil {
		return err
	}
	text := fmt.Sprintf("checked: %d stages gave the same bytes again", second.Ran)
	if impure > 0 {
		text += fmt.Sprintf("; %d impure ones were not tried", impure)
	}
	e.ui.note("%s", text)
	return nil
}
