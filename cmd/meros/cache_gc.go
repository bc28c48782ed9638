package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/cache"
	"meros/constellations"
	"meros/graph"
)

// cacheSizeEnv is the variable that says how large the cache may become before
// a build makes room.
const cacheSizeEnv = "MEROS_CACHE_SIZE"

type gcCmd struct {
	MaxSize   byteSize `placeholder:"SIZE" help:"Make the cache no larger than that (such as 20G; default without other limits: MEROS_CACHE_SIZE, or a fifth of the disk, at most 50G)."`
	MinFree   byteSize `placeholder:"SIZE" help:"Leave that much of the disk free."`
	OlderThan age      `placeholder:"AGE" help:"Remove what was not used for so long (such as 30d)."`
	DryRun    bool     `short:"n" help:"Only tell what would be removed."`
	JSON      bool     `name:"json" help:"Print JSON: {\"before\", \"after\", \"missing\", \"busy\", \"kept\": {why: bytes}, \"removed\": [{\"kind\", \"node\", \"output\", \"digest\", \"bytes\", \"used\"}]}."`
}

func (c *gcCmd) args() []string {
	return commandLine([]string{"cache", "gc"}, map[string]any{
		"max-size": c.MaxSize, "min-free": c.MinFree, "older-than": time.Duration(c.OlderThan), "dry-run": c.DryRun, "json": c.JSON,
	})
}

// Run implements the verb. It fails if a limit could not be met.
func (c *gcCmd) Run(e *env) error {
	if done, err := e.inNamespace(c.args()...); done {
		return err // unpacked layers have files of the ids of a namespace
	}
	dir := e.cacheDir()
	store, err := cache.Open(dir, cache.Options{ReadOnly: c.DryRun})
	if err != nil {
		return err
	}
	if c.MaxSize == 0 && c.MinFree == 0 && c.OlderThan == 0 {
		if c.MaxSize, err = cacheLimit(dir); err != nil {
			return err
		}
	}
	o := cache.CollectOptions{MaxSize: int64(c.MaxSize), MinFree: int64(c.MinFree), OlderThan: time.Duration(c.OlderThan), DryRun: c.DryRun}
	if !c.DryRun {
		scratch, err := store.NewScratch(e.scratchDir())
		if err != nil {
			return err
		}
		defer scratch.Close()
		o.Except = scratch.Dir()
	}
	r, err := collect(e, store, o)
	if err != nil {
		return err
	}
	if c.JSON {
		if err := sayCollected(e, r); err != nil {
			return err
		}
	} else {
		c.print(e, r)
	}
	if r.Missing > 0 {
		return fmt.Errorf("%s more would have to go to meet the limit, and what is left is needed (%s)", bytesText(r.Missing), heldBy(r))
	}
	return nil
}

// cacheSize is what the cache in dir takes on disk.
func cacheSize(dir string) (sum int64, err error) {
	all, err := cache.Contents(dir, cacheAreas(dir)...)
	for _, h := range all {
		sum += h.Bytes
	}
	return sum, err
}

// heldBy says what keeps most, and what can be done about that.
func heldBy(r *cache.Collected) string {
	if r.Busy > 0 {
		return bytesText(r.Busy) + " may be used by a build that runs: collect after it"
	}
	hints := map[string]string{
		keptByMachine: "meros shutdown", keptByPin: "meros cache unpin", keptByImage: "remove constellations that are not used", keptByLock: "remove constellations that are not used",
	}
	reasons := slices.SortedFunc(maps.Keys(r.Retained), func(a, b string) int { return int(min(max(r.Retained[b]-r.Retained[a], -1), 1)) })
	if len(reasons) == 0 {
		return "it is used"
	}
	text := fmt.Sprintf("most of it, %s, by %s", bytesText(r.Retained[reasons[0]]), reasons[0])
	if h := hints[reasons[0]]; h != "" {
		text += ": " + h
	}
	return text
}

// collect collects, but never what is needed.
func collect(e *env, store *cache.Store, o cache.CollectOptions) (*cache.Collected, error) {
	o.Roots = func() (cache.Roots, error) {
		need, err := findRoots(e, store)
		if err != nil {
			return cache.Roots{}, err
		}
		return cache.Roots{Artifacts: need.keep, Entries: need.entries}, nil
	}
	o.Runs, o.Areas = e.scratchDir(), cacheAreas(store.Dir())
	return store.Collect(e.ctx, o)
}

// partialWait is the age from which nobody continues a partial download.
const partialWait = time.Hour

// cacheAreas returns the directories beside the store's own in the cache
// directory dir, which count as part of the cache.
func cacheAreas(dir string) []cache.Area {
	return []cache.Area{
		{Kind: "objects of kernels (derived)", Dir: filepath.Join(dir, "objects"), Removable: true},
		{Kind: "partial downloads", Dir: filepath.Join(dir, "partial"), Removable: true, MinAge: partialWait},
		{Kind: "compilers' caches", Dir: filepath.Join(dir, "ccache")},
		{Kind: "records of builds", Dir: filepath.Join(dir, "builds")},
	}
}

// cacheLimit is how large the cache in dir may become if nobody says so: a
// fifth of its disk, and no more than anybody misses on a laptop.
func cacheLimit(dir string) (byteSize, error) {
	if v := os.Getenv(cacheSizeEnv); v != "" {
		n, err := constellations.ParseSize(v, 1)
		if err != nil {
			return 0, usageError{fmt.Errorf("%s: %w (such as 20G; 0 is no limit)", cacheSizeEnv, err)}
		}
		return byteSize(n), nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	return byteSize(min(int64(fs.Blocks)*int64(fs.Bsize)/5, 50<<30)), nil
}

// heldJSON is what takes room, for programs.
type heldJSON struct {
	Kind   string    `json:"kind"`
	Node   string    `json:"node,omitempty"`
	Output string    `json:"output,omitempty"`
	Digest string    `json:"digest,omitempty"`
	Bytes  int64     `json:"bytes"`
	Used   time.Time `json:"used"`
}

func newHeldJSON(h cache.Item) heldJSON {
	return heldJSON{h.Kind, h.Node, h.Output, string(h.Digest), h.Bytes, h.Used.UTC()}
}

// what names it for people.
func (h heldJSON) what() string {
	if h.Node == "" {
		return h.Kind
	}
	return h.Node + ": " + h.Output
}

func sayCollected(e *env, r *cache.Collected) error {
	removed := []heldJSON{}
	for _, h := range r.Removed {
		removed = append(removed, newHeldJSON(h))
	}
	return e.sayJSON(map[string]any{"before": r.Before, "after": r.After, "missing": r.Missing, "busy": r.Busy, "kept": r.Retained, "removed": removed})
}

func (c *gcCmd) print(e *env, r *cache.Collected) {
	kinds := make(map[string]cache.Item)
	for _, h := range r.Removed {
		if e.ui.verbose {
			e.ui.say("%9s  %-12s  %s", bytesText(h.Bytes), ago(h.Used), newHeldJSON(h).what())
		}
		k := kinds[h.Kind]
		k.Bytes += h.Bytes
		k.Files++
		kinds[h.Kind] = k
	}
	verb := "removed"
	if c.DryRun {
		verb = "would remove"
	}
	for _, kind := range slices.SortedFunc(maps.Keys(kinds), func(a, b string) int { return strings.Compare(a, b) }) {
		e.ui.say("%s %9s  %5d  %s", verb, bytesText(kinds[kind].Bytes), kinds[kind].Files, kind)
	}
	if r.Stuck > 0 {
		e.ui.note("%d files could not be removed: they are another user's", r.Stuck)
	}
	e.ui.say("the cache: %s before, %s after", bytesText(r.Before), bytesText(r.After))
}

// makeRoom collects after a build that made something, if the cache has become
// too large. What it costs to fail here is room.
func (w *workspace) makeRoom(e *env, r *graph.Result) {
	if r.Ran == 0 || e.ctx.Err() != nil {
		return
	}
	limit, err := cacheLimit(w.store.Dir())
	if err != nil || limit == 0 {
		if err != nil {
			e.ui.note("no room is made: %v", err)
		}
		return
	}
	if size, err := cacheSize(w.store.Dir()); err == nil && size <= int64(limit) {
		return // what has to stay need not be known
	}
	c, err := collect(e, w.store, cache.CollectOptions{MaxSize: int64(limit)})
	switch {
	case err != nil:
		e.ui.note("no room could be made: %v", err)
	case len(c.Removed) > 0:
		e.ui.note("made room: removed %s from the cache that was not used for the longest time (the limit is %s, %s)", bytesText(c.Before-c.After), bytesText(int64(limit)), cacheSizeEnv)
	case c.Missing > 0:
		e.ui.note("the cache takes %s, above its limit of %s (%s), and all of it is needed: %s", bytesText(c.After), bytesText(int64(limit)), cacheSizeEnv, heldBy(c))
	}
}
