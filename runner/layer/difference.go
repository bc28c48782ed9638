// This file compares trees and layers: which files of a tree changed, and where two
// archives that should be equal differ.

package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// Change is a file that differs between two trees.
type Change struct {
	Path   string   `json:"path"`
	Change string   `json:"change"`         // added, removed or changed
	What   []string `json:"what,omitempty"` // of a changed file: type, mode, owner, size, content, link, attributes
}

// Changes returns the files that differ between two trees, sorted by path.
func Changes(before, after *Listing) []Change {
	changes := []Change{}
	for _, name := range slices.Sorted(maps.Keys(before.Entries)) {
		now, ok := after.Entries[name]
		if !ok {
			changes = append(changes, Change{Path: "/" + name, Change: "removed"})
		} else if what := differInEntry(before.Entries[name], now); len(what) > 0 {
			changes = append(changes, Change{"/" + name, "changed", what})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after.Entries)) {
		if _, ok := before.Entries[name]; !ok {
			changes = append(changes, Change{Path: "/" + name, Change: "added"})
		}
	}
	slices.SortStableFunc(changes, func(x, y Change) int { return strings.Compare(x.Path, y.Path) })
	return changes
}

// typeNames are the words for the types of a tar header.
var typeNames = map[byte]string{tar.TypeReg: "file", tar.TypeDir: "directory", tar.TypeSymlink: "link", tar.TypeLink: "hard link", tar.TypeFifo: "pipe"}

// differInEntry returns one line for each property that differs. If the types
// differ it returns only that.
func differInEntry(a, b Entry) []string {
	var what []string
	add := func(name string, one, other any) {
		if one != other {
			what = append(what, fmt.Sprintf("%s %v -> %v", name, one, other))
		}
	}
	if add("type", typeNames[a.Type], typeNames[b.Type]); what != nil {
		return what
	}
	if a.Type != tar.TypeSymlink {
		add("mode", fmt.Sprintf("%04o", a.Mode), fmt.Sprintf("%04o", b.Mode))
	}
	add("owner", fmt.Sprintf("%d:%d", a.UID, a.GID), fmt.Sprintf("%d:%d", b.UID, b.GID))
	add("size", a.Size, b.Size)
	add("link", a.Link, b.Link)
	add("attributes", a.Attributes, b.Attributes)
	if a.Content != b.Content {
		add("content", shortSum(a.Content), shortSum(b.Content))
	}
	return what
}

// shortSum returns the first digits of a hexadecimal sha256, or "none".
func shortSum(sum string) string {
	if b, err := hex.DecodeString(sum); err != nil || len(b) != sha256.Size {
		return "none"
	}
	return sum[:12]
}

// DifferAt returns where two files differ. In layers it names the first file of
// the tree that differs.
func DifferAt(one, other string) (string, error) {
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

// differInTar compares two archives entry by entry. It returns "" if they are not
// archives, or equal.
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

// head retains the first bytes of what is written to it.
type head struct{ *bytes.Buffer }

func (h *head) Write(b []byte) (int, error) {
	if free := 16<<20 - h.Len(); free > 0 {
		h.Buffer.Write(b[:min(free, len(b))])
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

// firstDifference returns how many bytes two files begin with in common.
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
