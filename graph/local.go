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

// maxLines is how many entries of a local tree a key text lists one by one,
// so that a changed file can be named; a larger tree is one line.
const maxLines = 1000

// ReadLocal describes the file or directory at path as it is now: a file by
// its content, a directory by each entry's path, type, mode, extended
// attributes and content, hard links as such; never by time or by its owner on
// the host. If path itself is a symbolic link, it stands for what it leads to.
// What skip matches is no part of a directory, see [Skipped]. A file that stat cache
// remembers is not read again, nor is a large directory of which nothing has
// changed.
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
		return errors.New("this is neither a file nor a directory")
	}
	sum, err := stats.sum(path, fi.Sys().(*syscall.Stat_t))
	l.describe([]string{"content " + sum})
	return err
}

func (l *Local) readTree(path string, stats *StatCache) error {
	look, err := fingerprintTree(path, l.Skip)
	if err != nil {
		return err
	}
	l.seen = look
	if d, ok := stats.tree(look); ok {
		l.Digest = d
		return nil
	}
	t := &treeReader{stats: stats, links: make(map[inode]string), skip: l.Skip}
	if err := t.walk(".", path); err != nil {
		return err
	}
	l.describe(t.lines)
	stats.rememberTree(look, l.Digest)
	return nil
}

// describe takes the lines of the description.
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

// Skipped tells whether one of the patterns, as of path.Match, matches: one
// with a slash the whole path from the top, one without its last element.
func Skipped(name string, patterns []string) bool {
	for _, p := range patterns {
		if matches(p, name) {
			return true
		}
	}
	return false
}

// matches is asked for millions of names: what is no real pattern is compared.
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
	links map[inode]string // first path of each inode with several names
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

// xattrs lists the extended attributes of file that a layer keeps, by name.
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
