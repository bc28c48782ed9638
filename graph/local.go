// This file describes files and directories of the host for key texts. It does not know
// which stage reads them.

package graph

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxLines is the largest number of entries of a local tree that a key text lists one by
// one. Only such a list names a changed file. A larger tree is one line.
const maxLines = 1000

// ReadLocal describes the file or directory at path as it is now. A file counts by its
// content. A directory counts by the path, type, mode, extended attributes and content
// of each entry, and by its hard links. Times and owners on the host do not count. If
// path itself is a symbolic link, ReadLocal follows it. It leaves out the entries of a
// directory that match skip, see [Skipped]. It does not read a file, or a large
// directory, that stats remembers and that is unchanged.
func ReadLocal(name, path string, skip []string, stats *StatCache) (Local, error) {
	l := Local{Name: name, Path: path, Skip: skip}
	if err := l.read(stats); err != nil {
		return Local{}, fmt.Errorf("read %s: %w", path, err)
	}
	return l, nil
}

func (l *Local) read(stats *StatCache) error {
	path, err := filepath.EvalSymlinks(l.Path)
	if err != nil {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return l.readTree(path, stats)
	}
	if !fi.Mode().IsRegular() {
		return errors.New("neither a file nor a directory")
	}
	sum, err := stats.sum(path, fi.Sys().(*syscall.Stat_t))
	l.describe([]string{"content " + sum})
	return err
}

func (l *Local) readTree(path string, stats *StatCache) error {
	seen, err := fingerprintTree(path, l.Skip)
	if err != nil {
		return err
	}
	l.seen = seen
	if d, ok := stats.tree(seen); ok {
		l.Digest = d
		return nil
	}
	t := &treeReader{stats: stats, links: make(map[inode]string), skip: l.Skip}
	if err := t.walk(".", path); err != nil {
		return err
	}
	l.describe(t.lines)
	stats.rememberTree(seen, l.Digest)
	return nil
}

// describe sets the digest, and the entries unless there are too many, from the lines of
// the description.
func (l *Local) describe(lines []string) {
	h := sha256.New()
	for _, line := range lines {
		io.WriteString(h, line)
		h.Write([]byte{0})
	}
	l.Digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	if len(lines) <= maxLines {
		l.Entries = lines
	}
}

// Skipped reports whether one of the patterns, in the syntax of path.Match, matches. A
// pattern with a slash must match the whole path from the root of the tree. A pattern
// without one must match the last element.
func Skipped(name string, patterns []string) bool {
	for _, p := range patterns {
		if matches(p, name) {
			return true
		}
	}
	return false
}

// matches runs for millions of names, so it compares simple patterns as strings.
func matches(pattern, name string) bool {
	subject := name
	if !strings.Contains(pattern, "/") {
		subject = name[strings.LastIndexByte(name, '/')+1:]
	}
	if rest, ok := strings.CutPrefix(pattern, "*"); ok && !strings.ContainsAny(rest, `/*?[\`) && !strings.Contains(pattern, "/") {
		return strings.HasSuffix(subject, rest)
	}
	if !strings.ContainsAny(pattern, `*?[\`) {
		return subject == pattern
	}
	ok, _ := filepath.Match(pattern, subject)
	return ok
}

type inode struct{ dev, ino uint64 }

type treeReader struct {
	stats *StatCache
	lines []string
	links map[inode]string // first path of each inode with several links
	skip  []string
}

func (t *treeReader) walk(rel, file string) error {
	fi, err := os.Lstat(file)
	if err != nil {
		return err
	}
	line, err := t.describe(rel, file, fi)
	if err != nil {
		return err
	}
	t.lines = append(t.lines, line)
	if !fi.IsDir() {
		return nil
	}
	entries, err := os.ReadDir(file)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(rel, e.Name())
		if Skipped(name, t.skip) {
			continue
		}
		if err := t.walk(name, filepath.Join(file, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (t *treeReader) describe(rel, file string, fi fs.FileInfo) (string, error) {
	st := fi.Sys().(*syscall.Stat_t)
	var b strings.Builder
	fmt.Fprintf(&b, "%s mode %06o", quote(rel), st.Mode)
	switch fi.Mode().Type() {
	case 0:
		if st.Nlink > 1 {
			if first, ok := t.links[inode{st.Dev, st.Ino}]; ok {
				fmt.Fprintf(&b, " link %s", quote(first))
				return b.String(), nil
			}
			t.links[inode{st.Dev, st.Ino}] = rel
		}
		sum, err := t.stats.sum(file, st)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " content %s", sum)
	case fs.ModeSymlink:
		to, err := os.Readlink(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " to %s", quote(to))
	}
	xs, err := xattrs(file)
	if err != nil {
		return "", err
	}
	for _, x := range xs {
		fmt.Fprintf(&b, " xattr %s=%x", quote(x.Name), x.Value)
	}
	return b.String(), nil
}

// xattrs returns the extended attributes of file that go into a layer, sorted by name.
func xattrs(file string) ([]Param, error) {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(file, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 1<<16) // XATTR_LIST_MAX, xattr(7)
		n, err = unix.Llistxattr(file, buf)
	}
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes of %s: %w", file, err)
	}
	var xs []Param
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") && name != "security.capability" {
			continue
		}
		v := make([]byte, 1<<16) // XATTR_SIZE_MAX, xattr(7)
		n, err := unix.Lgetxattr(file, name, v)
		if err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", name, file, err)
		}
		xs = append(xs, Param{name, string(v[:n])})
	}
	sort.Slice(xs, func(i, j int) bool { return xs[i].Name < xs[j].Name })
	return xs, nil
}
