// This file removes the least recently used items of a store. It does not know which
// artifacts a project needs: the caller hands in the roots.

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

// CollectOptions are the limits and the roots of a collection.
type CollectOptions struct {
	MaxSize   int64                 // bytes that the store and the areas may take on disk; 0 means no limit
	MinFree   int64                 // bytes that must be free on its file system; 0 means no limit
	OlderThan time.Duration         // remove everything that was not used for longer; 0 means no limit
	Roots     func() (Roots, error) // called again if a run has begun or ended meanwhile
	Runs      string                // parent of the scratch directories of all runs that use the store
	Except    string                // a scratch directory whose run uses no artifacts, such as the collector's, or ""
	Areas     []Area                // directories that count towards MaxSize beside the store's own
	DryRun    bool                  // remove nothing
}

// Roots are the artifacts and entries that a collection must retain.
type Roots struct {
	Artifacts map[digest.Digest]string // reason why an artifact stays
	Entries   map[string]bool          // digits of actions whose entries stay even without their outputs
}

// Collected is the result of a collection.
type Collected struct {
	Before, After int64            // bytes on disk
	Removed       []Item           // the least recently used first
	Entries       int              // removed, of actions whose outputs are all gone
	Retained      map[string]int64 // bytes of the items that must stay, by reason
	Busy          int64            // bytes of the items that stay because a live run may need them
	Stuck         int              // items that could not be removed, such as another user's
	Missing       int64            // bytes above the limits that remain
}

// collector is one collection.
type collector struct {
	*Store
	CollectOptions
	roots   Roots
	runs    time.Time // modification time of Runs when the roots were read; zero if it had just changed
	floor   time.Time // items that were used later stay
	alive   bool      // at least one run is alive
	found   *contents
	result  *Collected
	excess  int64           // bytes that remain to be removed
	removed map[string]bool // removed artifacts, by the digits of their digests
}

// collectBatch is the number of items that a collection removes under the exclusive
// lock at a time. Runs that mark an item as used wait for that long.
const collectBatch = 64

// runsSettle is the age from which a modification time of a directory is reliable.
// File times have the resolution of the kernel's tick, so a second change right after
// the first may not show.
const runsSettle = 50 * time.Millisecond

// Collect removes the least recently used items until the limits are met. It never
// removes roots, nor items that a live run may use. See the package comment for the
// rules that let builds run at the same time.
func (s *Store) Collect(ctx context.Context, o CollectOptions) (*Collected, error) {
	c := &collector{Store: s, CollectOptions: o, result: &Collected{Retained: make(map[string]int64)}, removed: make(map[string]bool)}
	if err := c.collect(ctx); err != nil {
		return c.result, fmt.Errorf("collect: %w", err)
	}
	return c.result, nil
}

func (c *collector) collect(ctx context.Context) (err error) {
	c.floor = c.now()
	if err = c.refresh(); err != nil {
		return err
	}
	if c.found, err = scan(c.dir, c.Areas); err != nil {
		return err
	}
	candidates := c.candidates()
	c.result.After = c.result.Before
	if c.MaxSize > 0 {
		c.excess = c.result.Before - c.MaxSize
	}
	if c.MinFree > 0 {
		var fs unix.Statfs_t
		if err := unix.Statfs(c.dir, &fs); err != nil {
			return err
		}
		c.excess = max(c.excess, c.MinFree-int64(fs.Bavail)*int64(fs.Bsize))
	}
	for len(candidates) > 0 && err == nil {
		n := min(collectBatch, len(candidates))
		err = c.batch(ctx, candidates[:n])
		candidates = candidates[n:]
	}
	if err == nil {
		err = c.entries()
	}
	c.result.Missing = max(c.excess, 0)
	return err
}

// refresh finds the live runs, and reads the roots again if a run has begun or ended.
func (c *collector) refresh() error {
	started, alive, err := oldestRun(c.Runs, c.Except)
	if err != nil {
		return err
	}
	if c.alive = alive; alive && started.Add(-useGrain).Before(c.floor) {
		c.floor = started.Add(-useGrain)
	}
	runs := time.Unix(0, 1)
	if fi, err := os.Stat(c.Runs); err == nil {
		runs = fi.ModTime() // every run that begins or ends changes it
	}
	if runs.Equal(c.runs) {
		return nil
	}
	if c.runs = runs; time.Since(runs) < runsSettle {
		c.runs = time.Time{}
	}
	c.roots, err = c.Roots()
	return err
}

// candidates returns the items that may be removed, the least recently used first. It
// counts all others as retained.
func (c *collector) candidates() []Item {
	var all []Item
	for _, item := range c.found.blobs {
		c.result.Before += item.Bytes
		if why := c.roots.Artifacts[item.Digest]; item.Digest != "" && why != "" {
			c.result.Retained[why] += item.Bytes
			continue
		}
		all = append(all, *item)
	}
	for _, item := range c.found.others {
		c.result.Before += item.Bytes
		switch {
		case item.Kind == KindTree, item.area.Removable && (item.area.MinAge == 0 || c.now().Sub(item.Used) > item.area.MinAge):
			all = append(all, item)
		default:
			c.result.Retained[item.Kind] += item.Bytes
		}
	}
	slices.SortFunc(all, func(a, b Item) int {
		return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.File, b.File))
	})
	return all
}

// wanted reports whether the limits require the removal of item.
func (c *collector) wanted(item Item) bool {
	return c.excess > 0 || c.OlderThan > 0 && c.now().Sub(item.Used) > c.OlderThan
}

// batch removes some items under the exclusive lock. It only renames large trees
// there, and deletes them afterwards.
func (c *collector) batch(ctx context.Context, some []Item) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if !slices.ContainsFunc(some, c.wanted) {
		return nil
	}
	var later []string
	err := c.exclusively(func() error {
		for _, item := range some {
			if c.wanted(item) && c.roots.Artifacts[item.Digest] == "" {
				c.remove(item, &later)
			}
		}
		return nil
	})
	for _, dir := range later {
		err = errors.Join(err, removeTree(dir))
	}
	return err
}

// exclusively calls do under the exclusive lock, so that nobody can mark an item as
// used meanwhile. A dry run takes no lock.
func (c *collector) exclusively(do func() error) error {
	if !c.DryRun {
		lock, err := flockFile(c.guardFile(), unix.LOCK_EX)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	if err := c.refresh(); err != nil {
		return err
	}
	return do()
}

// remove removes one item unless a live run may need it. It renames a directory and
// adds it to later, which the caller deletes.
func (c *collector) remove(item Item, later *[]string) {
	if !c.idle(item) {
		c.result.Busy += item.Bytes
		return
	}
	err := error(nil)
	switch fi, lerr := os.Lstat(item.File); {
	case c.DryRun:
	case lerr == nil && fi.IsDir():
		var to string
		if to, err = os.MkdirTemp(c.tmp, "gone-*"); err == nil {
			*later = append(*later, to)
			err = os.Rename(item.File, filepath.Join(to, "tree"))
		}
		if item.Kind == KindTree && err == nil {
			os.Remove(item.File + fingerprintSuffix)
		}
	default:
		err = os.Remove(item.File)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return
	case err != nil:
		c.result.Stuck++
		return
	}
	c.excess -= item.Bytes
	c.result.After -= item.Bytes
	c.result.Removed = append(c.result.Removed, item)
	if item.Digest != "" {
		c.removed[item.Digest.Encoded()] = true
	}
}

// idle reports whether no live run may use item. Items that are used without a mark, such
// as those of areas, count as used while any run is alive.
func (c *collector) idle(item Item) bool {
	switch {
	case item.Kind == KindTree:
		fi, err := os.Lstat(item.File + fingerprintSuffix)
		if err != nil {
			return !c.alive && os.IsNotExist(err)
		}
		return fi.ModTime().Before(c.floor)
	case item.Digest == "":
		return !c.alive
	}
	fi, err := os.Lstat(item.File)
	return err == nil && lastUse(fi).Before(c.floor)
}

// entries removes the entries whose outputs are all gone, and their logs.
func (c *collector) entries() error {
	logs := make(map[string]int) // number of remaining entries with the log
	var gone []string
	for id, e := range c.found.entries {
		if c.orphan(id, e) {
			gone = append(gone, id)
		} else if e.Log != nil {
			logs[e.Log.Digest.Encoded()]++
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return c.exclusively(func() error {
		for _, id := range gone {
			c.removeEntry(id, logs)
		}
		return nil
	})
}

// orphan reports whether this collection removed the last output of an entry that is
// not a root.
func (c *collector) orphan(id string, e *Entry) bool {
	went := 0
	for _, a := range e.Outputs {
		hex := a.Digest.Encoded()
		if c.removed[hex] {
			went++
		} else if c.found.blobs[hex] != nil || c.roots.Artifacts[a.Digest] != "" {
			return false
		}
	}
	return went > 0 && !c.roots.Entries[id]
}

// removeEntry removes an entry and its log, unless one of its outputs was made again
// meanwhile.
func (c *collector) removeEntry(id string, logs map[string]int) {
	aid, err := ParseActionID(id)
	if err != nil || c.roots.Entries[id] {
		return
	}
	e, err := c.Lookup(aid)
	if err != nil {
		return
	}
	for _, a := range e.Outputs {
		if _, err := os.Lstat(c.Path(a.Digest)); err == nil && !c.DryRun {
			return
		}
	}
	c.result.Entries++
	if !c.DryRun {
		os.Remove(c.actionPath(aid))
		os.Remove(c.actionPath(aid) + ".key")
	}
	if e.Log == nil {
		return
	}
	hex := e.Log.Digest.Encoded()
	if item := c.found.blobs[hex]; item != nil && item.Output == outputLog && logs[hex] == 0 && !c.removed[hex] && c.roots.Artifacts[item.Digest] == "" {
		c.remove(*item, nil)
	}
}
