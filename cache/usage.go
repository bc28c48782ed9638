package cache

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"syscall"
)

// Use is what one kind of thing takes on disk.
type Use struct {
	Kind  string `json:"kind"`
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"` // allocated, so that a sparse file counts for what it holds
}

// Usage tells what the cache in dir holds, the largest kind first: artifacts
// by the stage that made them, and what can be made again from them.
func Usage(dir string) ([]Use, error) {
	stageOf, err := stagesByArtifact(dir)
	if err != nil {
		return nil, err
	}
	kinds := make(map[string]*Use)
	err = walkFiles(filepath.Join(dir, "cas"), func(name string, bytes int64) {
		kind, ok := stageOf[filepath.Base(name)]
		if !ok {
			kind = "packages and other sources"
		}
		if kinds[kind] == nil {
			kinds[kind] = &Use{Kind: kind}
		}
		kinds[kind].Files++
		kinds[kind].Bytes += bytes
	})
	if err != nil {
		return nil, err
	}
	var uses []Use
	for _, u := range kinds {
		uses = append(uses, *u)
	}
	for kind, sub := range map[string]string{"unpacked layers (derived)": "trees", "entries and key texts": "actions", "compilers' caches": "ccache", "objects of kernels (derived)": "objects", "partial downloads": "partial", "temporary files": "tmp"} {
		u, err := UsageOf(kind, filepath.Join(dir, sub))
		if err != nil {
			return nil, err
		}
		uses = append(uses, u)
	}
	sort.Slice(uses, func(i, j int) bool {
		if uses[i].Bytes != uses[j].Bytes {
			return uses[i].Bytes > uses[j].Bytes
		}
		return uses[i].Kind < uses[j].Kind
	})
	return uses, nil
}

// stagesByArtifact reads all entries, for what their outputs are.
func stagesByArtifact(dir string) (map[string]string, error) {
	stageOf := make(map[string]string)
	err := walkFiles(filepath.Join(dir, "actions"), func(name string, _ int64) {
		if filepath.Ext(name) == ".key" {
			return
		}
		var f entryFile
		var e Entry
		b, err := os.ReadFile(name)
		if err != nil || json.Unmarshal(b, &f) != nil || json.Unmarshal(f.Entry, &e) != nil {
			return
		}
		for _, a := range e.Outputs {
			stageOf[a.Digest.Encoded()] = "stage " + e.Stage
		}
		if e.Log != nil {
			stageOf[e.Log.Digest.Encoded()] = "logs"
		}
	})
	return stageOf, err
}

// UsageOf tells what is below dir, which need not exist.
func UsageOf(kind, dir string) (Use, error) {
	u := Use{Kind: kind}
	err := walkFiles(dir, func(_ string, bytes int64) { u.Files++; u.Bytes += bytes })
	return u, err
}

// walkFiles visits all files below dir. What it may not read, or what goes
// away meanwhile, it leaves out.
func walkFiles(dir string, visit func(name string, bytes int64)) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
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
			visit(name, fi.Sys().(*syscall.Stat_t).Blocks*512)
		}
		return nil
	})
}
