package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Entry is a file of a tree, without its times.
type Entry struct {
	Type       byte   // as in a tar header
	Mode       uint32 // permissions, set-ID and sticky bits
	UID, GID   int
	Size       int64
	Link       string // of a symbolic or hard one
	Content    string // sha256 of a regular file, hexadecimal
	Attributes string // extended ones, sorted
}

// Listing is what is in a tree, by the paths from its top.
type Listing struct {
	Entries map[string]Entry
	Kept    map[string][]byte // the content of those files that were asked for
}

// maxKept bounds a file whose content is kept, bytes.
const maxKept = 64 << 20

// List reads layers, the lowest first, and tells what the tree has that they
// make. keep names the files whose content is wanted. The layers are not
// trusted; nothing is written.
func List(ctx context.Context, files []string, keep ...string) (*Listing, error) {
	l := &Listing{Entries: make(map[string]Entry), Kept: make(map[string][]byte)}
	for _, file := range files {
		if err := l.layer(ctx, file, keep); err != nil {
			return nil, fmt.Errorf("read layer %s: %w", filepath.Base(file), err)
		}
	}
	return l, nil
}

// layer puts one layer over what is there. What it hides is hidden before
// anything of it is added, wherever in the archive that stands.
func (l *Listing) layer(ctx context.Context, file string, keep []string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	added := make(map[string]Entry)
	kept := make(map[string][]byte)
	hidden, emptied := make(map[string]bool), make(map[string]bool)
	r := tar.NewReader(f)
	h := sha256.New()
	for n := 0; ; n++ {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err == nil && n > maxEntries {
			err = fmt.Errorf("more than %d entries", maxEntries)
		}
		if err == nil && n%256 == 0 {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(header.Name, "/")
		if !filepath.IsLocal(name) || path.Clean(name) != name {
			return fmt.Errorf("%q: is not a path within the tree", header.Name)
		}
		dir, base := path.Split(name)
		if base == opaqueMarker {
			emptied[path.Clean(dir)] = true
			continue
		}
		if rest, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
			hidden[dir+rest] = true
			continue
		}
		if added[name], kept[name], err = entryOf(header, r, h, keep, name); err != nil {
			return fmt.Errorf("%q: %w", header.Name, err)
		}
	}
	for name, e := range added {
		if l.Entries[name].Type == tar.TypeDir && e.Type != tar.TypeDir {
			hidden[name] = true
		}
	}
	l.hide(hidden, emptied)
	for name, e := range added {
		l.remove(name)
		l.Entries[name] = e
		if kept[name] != nil {
			l.Kept[name] = kept[name]
		}
	}
	return nil
}

func entryOf(h *tar.Header, r io.Reader, sum hash.Hash, keep []string, name string) (Entry, []byte, error) {
	e := Entry{Type: h.Typeflag, Mode: uint32(h.Mode & 0o7777), UID: h.Uid, GID: h.Gid, Size: h.Size, Link: h.Linkname}
	e.Attributes = attributesText(h)
	if h.Typeflag != tar.TypeReg {
		return e, nil, nil
	}
	var content []byte
	if slices.Contains(keep, name) && h.Size <= maxKept {
		b, err := io.ReadAll(r)
		if err != nil {
			return e, nil, err
		}
		content, r = b, bytes.NewReader(b)
	}
	sum.Reset()
	_, err := io.Copy(sum, r)
	e.Content = hex.EncodeToString(sum.Sum(nil))
	return e, content, err
}

// hide takes out what a layer hides, with all that is below it, and what is in
// the directories that it empties.
func (l *Listing) hide(hidden, emptied map[string]bool) {
	if len(hidden)+len(emptied) == 0 {
		return
	}
	for name := range l.Entries {
		gone := hidden[name]
		for dir := path.Dir(name); !gone; dir = path.Dir(dir) {
			if gone = hidden[dir] || emptied[dir]; dir == "." {
				break
			}
		}
		if gone {
			l.remove(name)
		}
	}
}

func (l *Listing) remove(name string) {
	delete(l.Entries, name)
	delete(l.Kept, name)
}

// attributesText is what a header says of extended attributes.
func attributesText(h *tar.Header) string {
	var all []string
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrRecord); ok {
			all = append(all, fmt.Sprintf("%s=%x", name, v))
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
