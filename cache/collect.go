package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// CollectOptions say what is collected.
type CollectOptions struct {
	MaxSize   int64                        // bytes that the store may take on disk; 0 is no limit
	MinFree   int64                        // bytes that are to be free on its file system
	OlderThan time.Duration                // what was not used for so long goes in any case; 0 is nothing
	Keep      func(d digest.Digest) string // why an artifact stays, "" if it need not
	KeepEntry func(id ActionID) bool       // whether an action's entry stays although its outputs are gone
	Runs      string                       // parent of the scratch directories of all who use the store
	DryRun    bool                         // remove nothing
}

// Collected is what came of a collection.
type Collected struct {
	Before, After int64            // bytes on disk
	Removed       []Held           // the least recently used first
	Entries       int              // of actions of which no output was left
	Kept          map[string]int64 // bytes of what stays, by why
	Busy          int64            // bytes of what stays because a run that is alive may need it
	Missing       int64            // bytes that are above the limits still
}

// collector is one collection.
type collector struct {
	*Store
	CollectOptions
	found   *contents
	result  *Collected
	excess  int64 // what is to be removed still, bytes
	removed map[string]bool
}

// collectBatch is how many things are removed while all who use the store wait.
const collectBatch = 64

// Collect removes what was not used for the longest time, until the limits are
// met, and never what has to be kept. Others may use the store meanwhile: what
// a run marked as used since it began stays (see use.go); who marks and who
// removes exclude each other.
func (s *Store) Collect(ctx context.Context, o CollectOptions) (*Collected, error) {
	found, err := scan(s.dir)
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	c := &collector{Store: s, CollectOptions: o, found: found, result: &Collected{Kept: make(map[string]int64)}, removed: make(map[string]bool)}
	candidates := c.candidates()
	c.result.After = c.result.Before
	if o.MaxSize > 0 {
		c.excess = c.result.Before - o.MaxSize
	}
	if o.MinFree > 0 {
		var fs unix.Statfs_t
		if err := unix.Statfs(s.dir, &fs); err != nil {
			return nil, fmt.Errorf("collect: %w", err)
		}
		c.excess = max(c.excess, o.MinFree-int64(fs.Bavail)*int64(fs.Bsize))
	}
	for len(candidates) > 0 && err == nil {
		n := min(collectBatch, len(candidates))
		err = c.batch(ctx, candidates[:n])
		candidates = candidates[n:]
	}
	c.entries()
	c.result.Missing = max(c.excess, 0)
	if err != nil {
		return c.result, fmt.Errorf("collect: %w", err)
	}
	return c.result, nil
}

// candidates are what may go, the least recently used first.
func (c *collector) candidates() []Held {
	var all []Held
	for _, h := range c.found.blobs {
		c.result.Before += h.Bytes
		if why := c.Keep(h.Digest); h.Digest != "" && why != "" {
			c.result.Kept[why] += h.Bytes
			continue
		}
		all = append(all, *h)
	}
	for _, h := range c.found.others {
		c.result.Before += h.Bytes
		switch {
		case h.Kind == KindTree, c.below(h.File, "objects"), c.below(h.File, "partial"):
			all = append(all, h)
		default:
			c.result.Kept[h.Kind] += h.Bytes
		}
	}
	slices.SortFunc(all, func(a, b Held) int {
		return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.File, b.File))
	})
	return all
}

func (c *collector) below(file, sub string) bool {
	return filepath.Dir(file) == filepath.Join(c.dir, sub)
}

// wanted tells whether h is to go.
func (c *collector) wanted(h Held) bool {
	return c.excess > 0 || c.OlderThan > 0 && c.now().Sub(h.Used) > c.OlderThan
}

// batch removes some while nobody marks anything as used. Large trees are
// deleted after that.
func (c *collector) batch(ctx context.Context, some []Held) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if !slices.ContainsFunc(some, c.wanted) {
		return nil
	}
	if c.DryRun {
		return c.remove(some, func(string) error { return nil })
	}
	lock, err := flockFile(c.guardFile(), unix.LOCK_EX)
	if err != nil {
		return err
	}
	var later []string
	err = c.remove(some, func(file string) error {
		if fi, err := os.Lstat(file); err != nil || !fi.IsDir() {
			return os.Remove(file)
		}
		to, err := os.MkdirTemp(c.tmp, "gone-*")
		if err == nil {
			err = os.Rename(file, filepath.Join(to, "tree"))
			later = append(later, to)
		}
		return err
	})
	lock.Close()
	for _, dir := range later {
		err = errors.Join(err, removeTree(dir))
	}
	return err
}

func (c *collector) remove(some []Held, remove func(string) error) error {
	started, alive := oldestRun(c.Runs, c.tmp)
	for _, h := range some {
		switch {
		case !c.wanted(h):
			continue
		case alive && !c.idle(h, started.Add(-useGrain)):
			c.result.Busy += h.Bytes
			continue
		}
		if err := remove(h.File); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			return err
		}
		if h.Kind == KindTree && !c.DryRun {
			os.Remove(h.File + lookSuffix)
		}
		c.excess -= h.Bytes
		c.result.After -= h.Bytes
		c.result.Removed = append(c.result.Removed, h)
		c.removed[filepath.Base(h.File)] = true
	}
	return nil
}

// idle tells whether h was last used before a time. What a stage uses without
// marking it is not.
func (c *collector) idle(h Held, before time.Time) bool {
	file := h.File
	if h.Kind == KindTree {
		file += lookSuffix
	} else if h.Digest == "" {
		return false
	}
	fi, err := os.Lstat(file)
	return err != nil || lastUse(fi).Before(before)
}

// entries removes those of which every output was removed, and their logs.
func (c *collector) entries() {
	logs := make(map[string]int) // who has them still
	var gone []string
	for id, e := range c.found.entries {
		left, went := 0, 0
		for _, a := range e.Outputs {
			if hex := a.Digest.Encoded(); c.removed[hex] {
				went++
			} else if c.found.blobs[hex] != nil {
				left++
			}
		}
		if aid, err := ParseActionID(id); err == nil && went > 0 && left == 0 && !c.KeepEntry(aid) {
			gone = append(gone, id)
		} else if e.Log != nil {
			logs[e.Log.Digest.Encoded()]++
		}
	}
	for _, id := range gone {
		c.result.Entries++
		c.removeEntry(id, logs)
	}
}

func (c *collector) removeEntry(id string, logs map[string]int) {
	if log := c.found.entries[id].Log; log != nil {
		hex := log.Digest.Encoded()
		if h := c.found.blobs[hex]; h != nil && logs[hex] == 0 && !c.removed[hex] && c.Keep(log.Digest) == "" {
			if c.DryRun || os.Remove(h.File) == nil {
				c.removed[hex] = true
				c.excess -= h.Bytes
				c.result.After -= h.Bytes
				c.result.Removed = append(c.result.Removed, *h)
			}
		}
	}
	if aid, err := ParseActionID(id); err == nil && !c.DryRun {
		os.Remove(c.actionPath(aid))
		os.Remove(c.actionPath(aid) + ".key")
	}
}
