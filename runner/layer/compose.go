// This file composes a layer of a user's directories. Owners come from the options,
// because the owners on the host have no meaning in a machine.

package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// ComposeOptions describes the layer that [Compose] makes.
type ComposeOptions struct {
	Owners Owners
	Epoch  time.Time // the time of all entries
	// Base is the root file system below the layer. A directory that exists there
	// keeps its owner and mode. A link to a directory there (/lib in a merged /usr)
	// stands for its target.
	Base string
}

// Compose writes a layer of the trees in dirs to w; later trees override earlier
// ones. It ignores owners and times on this host: files belong to root unless the
// options say otherwise. It preserves modes, extended attributes, symbolic and hard
// links. A socket or a device node is an error.
func Compose(ctx context.Context, w io.Writer, dirs []string, o ComposeOptions) error {
	m := &merger{base: o.Base, found: make(map[string]source)}
	for _, dir := range dirs {
		m.top = dir
		if err := m.merge(dir, ".", "."); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(m.found))
	for name := range m.found {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool { return lessPath(names[i], names[j]) })
	c := &capture{ctx: ctx, tw: tar.NewWriter(w), epoch: o.Epoch, links: make(map[inode]string)}
	for _, name := range names {
		if err := c.compose(name, m.found[name], o.Owners); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return c.tw.Close()
}

// source is where an entry of a composed layer comes from.
type source struct {
	top  string // the tree it is from
	file string
	base bool // a directory of the base, which keeps its owner and mode
}

// merger merges trees into one.
type merger struct {
	top   string // the tree being merged
	base  string
	found map[string]source // by path in the layer
}

// merge merges the directory rel of the tree dir into the layer, at the path to.
func (m *merger) merge(dir, rel, to string) error {
	entries, err := os.ReadDir(filepath.Join(dir, rel))
	if err != nil {
		return err
	}
	for _, e := range entries {
		from := path.Join(rel, e.Name())
		name := path.Join(to, e.Name())
		file := filepath.Join(dir, from)
		if !e.IsDir() {
			m.removeBelow(name)
			m.found[name] = source{top: m.top, file: file}
			continue
		}
		if name, err = m.directory(name, file); err != nil {
			return err
		}
		if err := m.merge(dir, from, name); err != nil {
			return err
		}
	}
	return nil
}

// removeBelow drops the content of a directory that a file replaces.
func (m *merger) removeBelow(name string) {
	if s, ok := m.found[name]; ok {
		if fi, err := os.Lstat(s.file); err != nil || !fi.IsDir() {
			return
		}
		for other := range m.found {
			if strings.HasPrefix(other, name+"/") {
				delete(m.found, other)
			}
		}
	}
}

// directory records a directory and returns its path without links.
func (m *merger) directory(name, file string) (string, error) {
	if m.base == "" {
		m.found[name] = source{top: m.top, file: file}
		return name, nil
	}
	fi, err := os.Lstat(filepath.Join(m.base, name))
	switch {
	case err == nil && fi.IsDir():
		m.found[name] = source{"", filepath.Join(m.base, name), true}
	case err == nil && fi.Mode()&fs.ModeSymlink != 0:
		to, err := resolveIn(m.base, name)
		if err != nil {
			return "", fmt.Errorf("%s: cannot follow this link of the system below: %w", name, err)
		}
		for d := to; d != "."; d = path.Dir(d) {
			m.found[d] = source{"", filepath.Join(m.base, d), true}
		}
		return to, nil
	default:
		m.found[name] = source{top: m.top, file: file}
	}
	return name, nil
}

// resolveIn follows the links of name to a directory, as if root were /. It returns
// the path below root.
func resolveIn(root, name string) (string, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	t, err := -1, error(unix.EAGAIN)
	// EAGAIN: a rename or mount happened during the walk of a "..", openat2(2).
	for tries := 0; err == unix.EAGAIN && tries < 1000; tries++ {
		t, err = unix.Openat2(fd, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(t)
	from, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", err
	}
	to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", t))
	if err != nil {
		return "", err
	}
	return filepath.Rel(from, to)
}

// lessPath orders a directory directly before its content. By bytes, a-b would come
// between a and a/b.
func lessPath(a, b string) bool {
	return strings.ReplaceAll(a, "/", "\x00") < strings.ReplaceAll(b, "/", "\x00")
}

// compose writes one entry.
func (c *capture) compose(name string, s source, owners Owners) error {
	fi, err := os.Lstat(s.file)
	if err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(path.Base(name), whiteoutPrefix):
		return errWhiteoutName
	case fi.Mode()&fs.ModeSocket != 0:
		return hint.Add(errors.New("a socket cannot be copied into an image"), "remove it")
	case fi.Mode()&fs.ModeDevice != 0:
		return hint.Add(errors.New("a device node cannot be copied into an image"), "remove it; the system makes its own")
	}
	c.top = s.top
	h, _, err := c.header(name, s.file, fi, fi.Sys().(*syscall.Stat_t))
	if err != nil {
		return err
	}
	if o, ok := owners.of(name); ok || !s.base {
		h.Uid, h.Gid = o.UID, o.GID
		if o.Mode >= 0 && h.Typeflag != tar.TypeSymlink {
			h.Mode = o.Mode
		}
	}
	if !s.base {
		h.ModTime = clamp(c.epoch, c.epoch)
	}
	if err := c.tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg && h.Size > 0 {
		return c.content(s.file, h.Size)
	}
	return nil
}
