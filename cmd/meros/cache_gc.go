// This file is the verb cache gc, and the collection after a build.

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
	"meros/runner/hint"
)

// cacheSizeEnv is the variable that holds the size above which a build cleans the cache.
const cacheSizeEnv = "MEROS_CACHE_SIZE"

type gcCmd struct {
	MaxSize   byteSize `placeholder:"SIZE" help:"Limit of the size of the cache, such as 20G (default without other limits: MEROS_CACHE_SIZE, or a fifth of the disk, at most 50G)."`
	MinFree   byteSize `placeholder:"SIZE" help:"Space to leave free on the disk, such as 10G."`
	OlderThan age      `placeholder:"AGE" help:"Remove entries that were not used for this long, such as 30d."`
	DryRun    bool     `short:"n" help:"Only print what would be removed."`
	JSON      bool     `name:"json" help:"Print JSON: {\"before\", \"after\", \"missing\", \"busy\", \"kept\": {why: bytes}, \"removed\": [{\"kind\", \"node\", \"output\", \"digest\", \"bytes\", \"used\"}]}."`
}

func (c *gcCmd) args() []string {
	return commandLine([]string{"cache", "gc"}, map[string]any{
		"max-size": c.MaxSize, "min-free": c.MinFree, "older-than": time.Duration(c.OlderThan), "dry-run": c.DryRun, "json": c.JSON,
	})
}

// Run implements the verb. It fails if it cannot meet a limit.
func (c *gcCmd) Run(e *env) error {
	if done, err := e.inNamespace(c.args()...); done {
		return err // the owners of unpacked files are IDs of a namespace
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
		return hint.Add(fmt.Errorf("the cache exceeds the limit by %s, and everything left is needed", bytesText(r.Missing)), "%s", howToFree(r))
	}
	return nil
}

// cacheSize returns the bytes that the cache in dir occupies on disk.
func cacheSize(dir string) (sum int64, err error) {
	all, err := cache.Contents(dir, cacheAreas(dir)...)
	for _, h := range all {
		sum += h.Bytes
	}
	return sum, err
}

// howToFree names the reason that retains the most bytes, and the command that
// removes it.
func howToFree(r *cache.Collected) string {
	if r.Busy > 0 {
		return "a running build may use " + bytesText(r.Busy) + ", try again when it is done"
	}
	hints := map[string]string{
		neededByMachine: "`meros shutdown` frees it", neededByPin: "`meros cache unpin` frees it", neededByImage: "remove unused constellations", neededByLock: "remove unused constellations",
	}
	reasons := slices.SortedFunc(maps.Keys(r.Retained), func(a, b string) int { return int(min(max(r.Retained[b]-r.Retained[a], -1), 1)) })
	if len(reasons) == 0 {
		return "try again when no build is running"
	}
	text := fmt.Sprintf("%s are needed by %s", bytesText(r.Retained[reasons[0]]), reasons[0])
	if h := hints[reasons[0]]; h != "" {
		text += ": " + h
	}
	return text
}

// collect cleans the cache, and retains everything that the roots need.
func collect(e *env, store *cache.Store, o cache.CollectOptions) (*cache.Collected, error) {
	o.Roots = func() (cache.Roots, error) {
		need, err := findRoots(e, store)
		if err != nil {
			return cache.Roots{}, err
		}
		return cache.Roots{Artifacts: need.reasons, Entries: need.entries}, nil
	}
	o.Runs, o.Areas = e.scratchDir(), cacheAreas(store.Dir())
	return store.Collect(e.ctx, o)
}

// partialWait is the age at which a partial download is abandoned.
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

// cacheLimit returns the default limit of the cache in dir: a fifth of its disk, and at
// most 50 GiB, which a laptop can spare.
func cacheLimit(dir string) (byteSize, error) {
	if v := os.Getenv(cacheSizeEnv); v != "" {
		n, err := constellations.ParseSize(v, 1)
		if err != nil {
			return 0, usageError{hint.Add(fmt.Errorf("%s: %w", cacheSizeEnv, err), "write a size such as 20G; 0 means no limit")}
		}
		return byteSize(n), nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("read the size of the disk of %s: %w", dir, err)
	}
	return byteSize(min(int64(fs.Blocks)*int64(fs.Bsize)/5, 50<<30)), nil
}

// itemJSON is an entry of the cache, for programs.
type itemJSON struct {
	Kind   string    `json:"kind"`
	Node   string    `json:"node,omitempty"`
	Output string    `json:"output,omitempty"`
	Digest string    `json:"digest,omitempty"`
	Bytes  int64     `json:"bytes"`
	Used   time.Time `json:"used"`
}

func newItemJSON(h cache.Item) itemJSON {
	return itemJSON{h.Kind, h.Node, h.Output, string(h.Digest), h.Bytes, h.Used.UTC()}
}

// label names the entry for people.
func (h itemJSON) label() string {
	if h.Node == "" {
		return h.Kind
	}
	return h.Node + ": " + h.Output
}

func sayCollected(e *env, r *cache.Collected) error {
	removed := []itemJSON{}
	for _, h := range r.Removed {
		removed = append(removed, newItemJSON(h))
	}
	return e.sayJSON(map[string]any{"before": r.Before, "after": r.After, "missing": r.Missing, "busy": r.Busy, "kept": r.Retained, "removed": removed})
}

func (c *gcCmd) print(e *env, r *cache.Collected) {
	kinds := make(map[string]cache.Item)
	for _, h := range r.Removed {
		if e.ui.verbose {
			e.ui.say("%9s  %-12s  %s", bytesText(h.Bytes), ago(h.Used), newItemJSON(h).label())
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
		e.ui.note("%d files could not be removed: they belong to another user", r.Stuck)
	}
	e.ui.say("the cache: %s before, %s after", bytesText(r.Before), bytesText(r.After))
}

// limitCache cleans the cache after a build that ran a stage, if the cache exceeds its
// limit. A failure here only wastes disk space.
func (w *workspace) limitCache(e *env, r *graph.Result) {
	if r.Ran == 0 || e.ctx.Err() != nil {
		return
	}
	limit, err := cacheLimit(w.store.Dir())
	if err != nil || limit == 0 {
		if err != nil {
			e.ui.note("the cache is not cleaned: %s", hint.Line(err))
		}
		return
	}
	if size, err := cacheSize(w.store.Dir()); err == nil && size <= int64(limit) {
		return // reading the roots takes time
	}
	c, err := collect(e, w.store, cache.CollectOptions{MaxSize: int64(limit)})
	switch {
	case err != nil:
		e.ui.note("the cache could not be cleaned: %s", hint.Line(err))
	case len(c.Removed) > 0:
		e.ui.note("removed %s from the cache, the least recently used entries first (limit: %s, %s)", bytesText(c.Before-c.After), bytesText(int64(limit)), cacheSizeEnv)
	case c.Missing > 0:
		e.ui.note("the cache exceeds its limit: it has %s of %s (%s), and everything is needed: %s", bytesText(c.After), bytesText(int64(limit)), cacheSizeEnv, howToFree(c))
	}
}
