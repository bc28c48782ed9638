// This file counts the items of a store and of the directories that the caller names.
// It does not know what those directories are for.

package cache

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Item is one thing that takes space on disk: an artifact, a tree, a temporary
// file, or a file or directory of an [Area]. All entries together are one item.
type Item struct {
	Kind   string        // for people
	Digest digest.Digest // "" unless it is an artifact
	Node   string        // name of the node that made the artifact, one of them if there were several; or ""
	Output string        // name of the node's output; "log" for its log
	File   string
	Bytes  int64 // allocated on disk: the holes of a sparse file do not count
	Files  int
	Used   time.Time // last use, or last change in an area; zero if unknown

	area Area // the area that the item is in; zero for the store's own items
}

// Area is a directory that the store does not fill itself, such as a compiler's
// cache. The caller wants it counted with the store. Each file and directory
// directly in it is one item.
type Area struct {
	Kind      string // of its items, for people
	Dir       string
	Removable bool          // a collection may remove its items; Dir is on the store's file system
	MinAge    time.Duration // a collection retains items that changed within this time; 0 means no limit
}

// Kinds of items that are not outputs of a stage.
const (
	KindSource  = "packages, sources, logs of failures"
	KindLog     = "logs"
	KindTree    = "unpacked layers (derived)"
	KindEntries = "entries and key texts"
	KindTemp    = "temporary files"
)

// outputLog is [Item.Output] for the log of a stage.
const outputLog = "log"

// Contents returns the items of the store in dir and of the areas. It leaves out files
// that disappear meanwhile.
func Contents(dir string, areas ...Area) ([]Item, error) {
	c, err := scan(dir, areas)
	if err != nil {
		return nil, err
	}
	all := make([]Item, 0, len(c.blobs)+len(c.others))
	for _, item := range c.blobs {
		all = append(all, *item)
	}
	return append(all, c.others...), nil
}

// contents is the result of a scan of a store.
type contents struct {
	mu      sync.Mutex
	blobs   map[string]*Item // by the digest's digits
	entries map[string]*Entry
	others  []Item
}

func scan(dir string, areas []Area) (*contents, error) {
	c := &contents{blobs: make(map[string]*Item), entries: make(map[string]*Entry)}
	g := new(errgroup.Group)
	g.SetLimit(runtime.NumCPU())
	for _, sub := range subdirectories(filepath.Join(dir, "cas")) {
		g.Go(func() error { return c.scanBlobs(sub) })
	}
	entries := Item{Kind: KindEntries, File: filepath.Join(dir, "actions")}
	for _, sub := range subdirectories(entries.File) {
		g.Go(func() error { return c.scanEntries(sub, &entries) })
	}
	for _, boot := range subdirectories(filepath.Join(dir, "trees")) {
		for _, view := range subdirectories(boot) {
			g.Go(func() error { return c.scanTrees(view) })
		}
	}
	areas = append(slices.Clone(areas), Area{Kind: KindTemp, Dir: filepath.Join(dir, "tmp")})
	for _, area := range areas {
		for _, file := range filesIn(area.Dir) {
			g.Go(func() error { return c.scanArea(area, file) })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	c.others = append(c.others, entries)
	for _, id := range slices.Sorted(maps.Keys(c.entries)) {
		e := c.entries[id]
		for _, output := range slices.Sorted(maps.Keys(e.Outputs)) {
			c.name(e.Outputs[output], "stage "+e.Stage, e.Node, output)
		}
		if e.Log != nil {
			c.name(*e.Log, KindLog, e.Node, outputLog)
		}
	}
	return c, nil
}

func (c *contents) name(a Artifact, kind, node, output string) {
	if item := c.blobs[a.Digest.Encoded()]; item != nil && item.Node == "" {
		item.Kind, item.Node, item.Output = kind, node, output
	}
}

// subdirectories returns the paths of the directories in dir, which need not exist.
func subdirectories(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var all []string
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, filepath.Join(dir, e.Name()))
		}
	}
	return all
}

// filesIn returns the paths of the files and directories in dir, which need not
// exist.
func filesIn(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var all []string
	for _, e := range entries {
		all = append(all, filepath.Join(dir, e.Name()))
	}
	return all
}

func allocated(fi fs.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return fi.Size()
}

func (c *contents) scanBlobs(dir string) error {
	var found []*Item
	err := eachName(dir, func(_ int, name string, st *unix.Stat_t) {
		var d digest.Digest
		if isHex(name) {
			d = digest.NewDigestFromEncoded(digest.SHA256, name)
		}
		found = append(found, &Item{Kind: KindSource, Digest: d, File: filepath.Join(dir, name), Bytes: st.Blocks * 512, Files: 1, Used: time.Unix(st.Atim.Unix())})
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, item := range found {
		c.blobs[filepath.Base(item.File)] = item
	}
	return err
}

func (c *contents) scanEntries(dir string, sum *Item) error {
	found := make(map[string]*Entry)
	var files int
	var bytes int64
	buf := make([]byte, 64<<10)
	err := eachName(dir, func(fd int, name string, st *unix.Stat_t) {
		files++
		bytes += st.Blocks * 512
		if strings.HasSuffix(name, ".key") {
			return
		}
		var f struct{ Entry Entry } // no checksum: a scan need not be exact
		if b := readSmall(fd, name, buf); json.Unmarshal(b, &f) == nil && f.Entry.damaged() == "" {
			found[name] = &f.Entry
		}
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(c.entries, found)
	sum.Files += files
	sum.Bytes += bytes
	return err
}

// eachName visits the regular files in dir, but not in its subdirectories. There are
// tens of thousands of files, so it makes as few system calls as possible.
func eachName(dir string, visit func(fd int, name string, st *unix.Stat_t)) error {
	d, err := os.Open(dir)
	if err != nil {
		return nil // it has disappeared
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	fd := int(d.Fd())
	var st unix.Stat_t
	for _, n := range names {
		if unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			visit(fd, n, &st)
		}
	}
	return nil
}

// readSmall reads the beginning of a file in the directory dir into buf. It returns nil
// on an error.
func readSmall(dir int, name string, buf []byte) []byte {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	n, _ := unix.Read(fd, buf)
	return buf[:max(n, 0)]
}

// scanTrees takes the size of a tree from its fingerprint file, if there is one.
func (c *contents) scanTrees(view string) error {
	for _, dir := range subdirectories(view) {
		item := Item{Kind: KindTree, File: dir, Files: 1}
		if fi, err := os.Stat(dir + fingerprintSuffix); err == nil {
			item.Used = fi.ModTime()
		}
		text, _ := os.ReadFile(dir + fingerprintSuffix)
		var err error
		if f := strings.Fields(string(text)); len(f) == 2 {
			item.Bytes, err = strconv.ParseInt(f[1], 10, 64)
		}
		if err != nil || item.Bytes == 0 {
			item.Bytes = 0
			err = eachFile(dir, func(_ string, fi fs.FileInfo) { item.Bytes += allocated(fi) })
		}
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.others = append(c.others, item)
		c.mu.Unlock()
	}
	return nil
}

func (c *contents) scanArea(area Area, file string) error {
	item := Item{Kind: area.Kind, File: file, area: area}
	if fi, err := os.Lstat(file); err == nil {
		item.Used = fi.ModTime()
	}
	err := eachFile(file, func(_ string, fi fs.FileInfo) { item.Files++; item.Bytes += allocated(fi) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.others = append(c.others, item)
	return err
}

// UsageOf returns one item with all files below dir, which need not exist.
func UsageOf(kind, dir string) (Item, error) {
	u := Item{Kind: kind, File: dir}
	err := eachFile(dir, func(_ string, fi fs.FileInfo) { u.Files++; u.Bytes += allocated(fi) })
	return u, err
}

// eachFile visits all files below dir, or dir itself if it is a file. It leaves out
// files that it may not read, or that disappear meanwhile.
func eachFile(dir string, visit func(file string, fi fs.FileInfo)) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) || os.IsPermission(err) {
				return nil
			}
			return err
		}
		if d.IsDir() {
			return nil
		}
		if fi, err := d.Info(); err == nil {
			visit(file, fi)
		}
		return nil
	})
}
