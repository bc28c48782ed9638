// This file lists the tree that layers make, without unpacking them.

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

// Entry describes a file of a tree, without its times.
type Entry struct {
	Type       byte   // as in a tar header
	Mode       uint32 // permissions, set-ID and sticky bits
	UID, GID   int
	Size       int64  // bytes
	Link       string // target of a symbolic or hard link
	Content    string // sha256 of a regular file, hexadecimal
	Attributes string // extended attributes, sorted
}

// Listing describes a tree, by the paths from its top.
type Listing struct {
	Entries  map[string]Entry
	Contents map[string][]byte // of the files that the caller asked for
}

// maxContent bounds the size of a file in Contents, bytes.
const maxContent = 64 << 20

// List reads layers, the lowest first, and describes the tree that they make. wanted
// names the files whose contents the listing shall have. List does not trust the
// layers, and writes nothing.
func List(ctx context.Context, files []string, wanted ...string) (*Listing, error) {
	l := &Listing{Entries: make(map[string]Entry), Contents: make(map[string][]byte)}
	for _, file := range files {
		if err := l.layer(ctx, file, wanted); err != nil {
			return nil, fmt.Errorf("read layer %s: %w", filepath.Base(file), err)
		}
	}
	return l, nil
}

// layer adds one layer on top. It applies all whiteouts before it adds the layer's
// files, wherever they are in the archive.
func (l *Listing) layer(ctx context.Context, file string, wanted []string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	added := make(map[string]Entry)
	contents := make(map[string][]byte)
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
			return fmt.Errorf("%q: %w", header.Name, errOutside)
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
		if added[name], contents[name], err = entryOf(header, r, h, wanted, name); err != nil {
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
		if contents[name] != nil {
			l.Contents[name] = contents[name]
		}
	}
	return nil
}

// entryOf describes one entry, and returns its content if it is wanted and not too
// large.
func entryOf(h *tar.Header, r io.Reader, sum hash.Hash, wanted []string, name string) (Entry, []byte, error) {
	e := Entry{Type: h.Typeflag, Mode: uint32(h.Mode & 0o7777), UID: h.Uid, GID: h.Gid, Size: h.Size, Link: h.Linkname}
	e.Attributes = attributesText(h)
	if h.Typeflag != tar.TypeReg {
		return e, nil, nil
	}
	var content []byte
	if slices.Contains(wanted, name) && h.Size <= maxContent {
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

// hide drops the hidden paths and everything below them, and the content of the
// emptied directories.
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
	delete(l.Contents, name)
}

// attributesText returns the extended attributes of a header, sorted.
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
