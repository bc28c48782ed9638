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
	MaxSize   int64                 // bytes that the store may take on disk; 0 is no limit
	MinFree   int64                 // bytes that are to be free on its file system
	OlderThan time.Duration         // what was not used for so long goes in any case; 0 is nothing
	Roots     func() (Roots, error) // what has to stay; asked again if a run has begun or ended meanwhile
	Runs      string                // parent of the scratch directories of all who use the store
	Except    string                // one of them that uses nothing, or ""
	Areas     []Area                // directories that count towards MaxSize beside the store's own
	DryRun    bool                  // remove nothing
}

// Roots are what a collection leaves alone.
type Roots struct {
	Artifacts map[digest.Digest]string // why an artifact stays
	Entries   map[string]bool          // actions whose entries stay although their outputs are gone
}

// Collected is what came of a collection.
type Collected struct {
	Before, After int64            // bytes on disk
	Removed       []Item           // the least recently used first
	Entries       int              // of actions of which no output was left
	Retained      map[string]int64 // bytes of what stays, by why
	Busy          int64            // bytes of what stays because a run that is alive may need it
	Stuck         int              // files that cannot be removed, such as another user's
	Missing       int64            // bytes that are above the limits still
}

// collector is one collection.
type collector struct {
	*Store
	CollectOptions
	roots   Roots
	runs    time.Time // of the last change of Runs that the roots are after
	floor   time.Time // what was used later stays
	alive   bool      // a run is
	found   *contents
	result  *Collected
	excess  int64           // what is to be removed still, bytes
	removed map[string]bool // artifacts, by the digits of their digests
}

// collectBatch is how many things are removed while all who use the store wait.
const collectBatch = 64

// runsSettle is how long ago a directory must have changed last for a further
// change to show: times of files are as exact as the kernel's tick.
const runsSettle = 50 * time.Millisecond

// Collect removes what was not used for the longest time, until the limits are
// met, and never what has to be kept. Others may use the store meanwhile:
//
//   - What a run that is alive has marked as used since it began stays, see
//     use.go. Who marks, who begins a run, and who removes exclude each other.
//   - What was used after the collection began stays.
//   - If runs have begun or ended, the roots are asked for again.
func (s *Store) Collect(ctx context.Context, o CollectOptions) (*Collected, error) {
	c := &collector{Store: s, CollectOptions: o, result: &Collected{Retained: make(map[string]int64)}, removed: make(map[string]bool)}
	if err := c.collect(ctx); err != nil {
		return c.result, fmt.Errorf("collect: %w", err)
	}
	return c.result, nil
}

func (c *collector) collect(ctx context.Context) (err error) {
	c.floor = c.now()
	if err = c.look(); err != nil {
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

// look finds out which runs are alive, and asks for the roots if that may have
// changed them.
func (c *collector) look() error {
	started, alive, err := oldestRun(c.Runs, c.Except)
	if err != nil {
		return err
	}
	if c.alive = alive; alive && started.Add(-useGrain).Before(c.floor) {
		c.floor = started.Add(-useGrain)
	}
	runs := time.Unix(0, 1)
	if fi, err := os.Stat(c.Runs); err == nil {
		runs = fi.ModTime() // it changes with every run that begins or ends
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

// candidates are what may go, the least recently used first.
func (c *collector) candidates() []Item {
	var all []Item
	for _, h := range c.found.blobs {
		c.result.Before += h.Bytes
		if why := c.roots.Artifacts[h.Digest]; h.Digest != "" && why != "" {
			c.result.Retained[why] += h.Bytes
			continue
		}
		all = append(all, *h)
	}
	for _, h := range c.found.others {
		c.result.Before += h.Bytes
		switch {
		case h.Kind == KindTree, h.area.Removable && (h.area.MinAge == 0 || c.now().Sub(h.Used) > h.area.MinAge):
			all = append(all, h)
		default:
			c.result.Retained[h.Kind] += h.Bytes
		}
	}
	slices.SortFunc(all, func(a, b Item) int {
		return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.File, b.File))
	})
	return all
}

// wanted tells whether h is to go.
func (c *collector) wanted(h Item) bool {
	return c.excess > 0 || c.OlderThan > 0 && c.now().Sub(h.Used) > c.OlderThan
}

// batch removes some while nobody marks anything as used. Large trees are
// deleted after that.
func (c *collector) batch(ctx context.Context, some []Item) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if !slices.ContainsFunc(some, c.wanted) {
		return nil
	}
	var later []string
	err := c.alone(func() error {
		for _, h := range some {
			if c.wanted(h) && c.roots.Artifacts[h.Digest] == "" {
				c.remove(h, &later)
			}
		}
		return nil
	})
	for _, dir := range later {
		err = errors.Join(err, removeTree(dir))
	}
	return err
}

// alone does something while nobody marks what he uses.
func (c *collector) alone(do func() error) error {
	if !c.DryRun {
		lock, err := flockFile(c.guardFile(), unix.LOCK_EX)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	if err := c.look(); err != nil {
		return err
	}
	return do()
}

// remove removes one thing, if nobody may need it. A tree only goes out of the
// way.
func (c *collector) remove(h Item, later *[]string) {
	if !c.idle(h) {
		c.result.Busy += h.Bytes
		return
	}
	err := error(nil)
	switch fi, lerr := os.Lstat(h.File); {
	case c.DryRun:
	case lerr == nil && fi.IsDir():
		var to string
		if to, err = os.MkdirTemp(c.tmp, "gone-*"); err == nil {
			*later = append(*later, to)
			err = os.Rename(h.File, filepath.Join(to, "tree"))
		}
		if h.Kind == KindTree && err == nil {
			os.Remove(h.File + fingerprintSuffix)
		}
	default:
		err = os.Remove(h.File)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return
	case err != nil:
		c.result.Stuck++
		return
	}
	c.excess -= h.Bytes
	c.result.After -= h.Bytes
	c.result.Removed = append(c.result.Removed, h)
	if h.Digest != "" {
		c.removed[h.Digest.Encoded()] = true
	}
}

// idle tells whether nobody who is alive may use h. What a stage uses without
// marking it is in use as long as any run is alive.
func (c *collector) idle(h Item) bool {
	switch {
	case h.Kind == KindTree:
		fi, err := os.Lstat(h.File + fingerprintSuffix)
		if err != nil {
			return !c.alive && os.IsNotExist(err)
		}
		return fi.ModTime().Before(c.floor)
	case h.Digest == "":
		return !c.alive
	}
	fi, err := os.Lstat(h.File)
	return err == nil && lastUse(fi).Before(c.floor)
}

// entries removes those of which every output was removed, and their logs.
func (c *collector) entries() error {
	logs := make(map[string]int) // who has them still
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
	return c.alone(func() error {
		for _, id := range gone {
			c.removeEntry(id, logs)
		}
		return nil
	})
}

// orphan tells whether an entry leads to nothing any more.
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

// removeEntry removes an entry, unless it was made again meanwhile.
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
	if h := c.found.blobs[hex]; h != nil && h.Output == outputLog && logs[hex] == 0 && !c.removed[hex] && c.roots.Artifacts[h.Digest] == "" {
		c.remove(*h, nil)
	}
}
