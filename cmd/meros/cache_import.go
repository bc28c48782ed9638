// This file is the verb cache import: it reads a bundle and trusts nothing in it but the
// entries of the cache.

package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"meros/cache"
	"meros/constellations"
	"meros/runner/hint"
	"meros/runner/layer"
	"meros/stages"
)

type cacheImportCmd struct {
	File string `arg:"" help:"File that meros cache export wrote. Import only from people whose images you would run: its cache entries are trusted."`
}

// Run implements the verb.
func (c *cacheImportCmd) Run(e *env) error {
	file, err := filepath.Abs(c.File)
	if err != nil {
		return err
	}
	if fi, err := os.Stat(file); err != nil || !fi.Mode().IsRegular() {
		return usageError{fmt.Errorf("%s: no such file", c.File)}
	}
	if done, err := e.inNamespace("cache", "import", file); done {
		return err
	}
	w, err := openWorkspace(e)
	if err != nil {
		return err
	}
	defer w.close()
	home := e.constellationsDir()
	unlock, err := cache.LockDirectory(e.ctx, home, func() { e.ui.note("waiting: another meros imports into %s", home) })
	if err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	defer unlock()
	i := &bundleImport{store: w.store, home: home, scratch: w.scratch.Dir()}
	err = i.read(e.ctx, file)
	if err == nil {
		err = i.place(func() { e.ui.note("%s exists already and stays as it is", i.target()) })
	}
	if err = errors.Join(err, i.close()); err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	e.ui.say("%s: %d files of the cache, %s; `meros build %s` finds them", i.head.Constellation, i.files, bytesText(i.bytes), i.head.Constellation)
	return nil
}

// unfinishedImport begins the name of the directory that holds a constellation until it is
// complete. It lies beside the constellations, because that may be a file system of its
// own, and a rename does not leave a file system.
const unfinishedImport = ".meros-import-"

// bundleImport reads a bundle. Any part of the bundle may be hostile.
type bundleImport struct {
	store   *cache.Store
	home    string // the directory of constellations, locked
	scratch string // for a constellation that exists already and is only read
	head    bundleHead
	tmp     string // holds the directory of the constellation until it is complete
	exists  bool   // the constellation exists already
	files   int
	bytes   int64
	links   []string // links of the constellation that a build would follow
	dirs    []*tar.Header
	held    int64 // bytes of names and attributes in dirs
}

func (i *bundleImport) target() string { return filepath.Join(i.home, i.head.Constellation) }

// open makes the directory to unpack into, and removes those of killed imports.
func (i *bundleImport) open() (*os.Root, error) {
	left, _ := filepath.Glob(filepath.Join(i.home, unfinishedImport+"*"))
	for _, dir := range left {
		os.RemoveAll(dir)
	}
	parent := i.home
	if _, err := os.Lstat(i.target()); err == nil {
		i.exists, parent = true, i.scratch // home need not be writable
	}
	var err error
	if i.tmp, err = os.MkdirTemp(parent, unfinishedImport+"*"); err != nil {
		return nil, err
	}
	dir := filepath.Join(i.tmp, i.head.Constellation)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// place gives the constellation its name, or calls exists if the name is taken.
func (i *bundleImport) place(exists func()) error {
	if i.exists {
		exists()
		return nil
	}
	return os.Rename(filepath.Join(i.tmp, i.head.Constellation), i.target())
}

// close removes the unfinished directory.
func (i *bundleImport) close() error {
	if i.tmp == "" {
		return nil
	}
	return os.RemoveAll(i.tmp)
}

// read reads the whole bundle.
func (i *bundleImport) read(ctx context.Context, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	r := tar.NewReader(z)
	if err := i.readHead(r); err != nil {
		return err
	}
	root, err := i.open()
	if err != nil {
		return err
	}
	defer root.Close()
	for {
		h, err := r.Next()
		if err == io.EOF {
			return i.finish(root)
		}
		if err != nil {
			return cutOff(err)
		}
		if err := i.member(ctx, root, h, r); err != nil {
			return err
		}
	}
}

// cutOff says that the archive ends or is damaged.
func cutOff(err error) error { return fmt.Errorf("not a bundle, or cut off: %w", err) }

// finish checks the links and sets the modes of directories, after all files are written.
func (i *bundleImport) finish(root *os.Root) error {
	if err := checkLinks(root, i.links); err != nil {
		return err
	}
	for _, h := range slices.Backward(i.dirs) { // a directory after those in it
		name, err := i.inside(h.Name)
		if err == nil {
			err = finishDir(root, name, h)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
	return nil
}

// finishDir sets the attributes and the mode of a directory.
func finishDir(root *os.Root, name string, h *tar.Header) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(setAttributes(f, h), f.Chmod(exactMode(h)))
}

// inside returns the path of a member from the directory of the constellation.
func (i *bundleImport) inside(member string) (string, error) {
	name, err := filepath.Rel(filepath.Join("constellations", i.head.Constellation), filepath.Clean(member))
	if err != nil || !filepath.IsLocal(name) {
		return "", errors.New("it belongs neither to the cache nor to the constellation")
	}
	return name, nil
}

// readHead reads the first member.
func (i *bundleImport) readHead(r *tar.Reader) error {
	h, err := r.Next()
	if err != nil {
		return cutOff(err)
	}
	if h.Name != bundleFile {
		return errors.New("not a bundle of meros cache export")
	}
	if err := json.NewDecoder(io.LimitReader(r, 1<<16)).Decode(&i.head); err != nil {
		return fmt.Errorf("not a bundle: %w", err)
	}
	if i.head.Format != bundleFormat {
		return fmt.Errorf("the bundle has format %d (from %s), and this meros reads format %d", i.head.Format, i.head.Meros, bundleFormat)
	}
	if !constellations.IsName(i.head.Constellation) {
		return fmt.Errorf("%q cannot be the name of a constellation", i.head.Constellation)
	}
	return nil
}

// maxDirectories limits the memory for directories, in bytes: their names and attributes,
// and headerSize for each.
const (
	maxDirectories = 64 << 20
	headerSize     = 512
)

// maxBundled is the size limit of a file of a constellation, in bytes.
const maxBundled = 8 << 30

// member stores one member.
func (i *bundleImport) member(ctx context.Context, root *os.Root, h *tar.Header, r io.Reader) error {
	err := i.store.ReadBundle(ctx, h, r)
	if !errors.Is(err, cache.ErrNotOurs) {
		i.files++
		i.bytes += h.Size
		return err
	}
	name, err := i.inside(h.Name)
	if err == nil {
		err = i.ofConstellation(root, name, h, r)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	return nil
}

// ofConstellation writes a file of the constellation.
func (i *bundleImport) ofConstellation(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		d := &tar.Header{Typeflag: h.Typeflag, Name: h.Name, Mode: h.Mode, PAXRecords: h.PAXRecords}
		i.dirs = append(i.dirs, d) // finish does the rest
		for key, value := range h.PAXRecords {
			i.held += int64(len(key) + len(value))
		}
		if i.held += int64(len(h.Name)) + headerSize; i.held > maxDirectories {
			return errors.New("the names and attributes of directories are too large")
		}
		return root.MkdirAll(name, 0o700)
	case tar.TypeSymlink:
		if followed(name) {
			i.links = append(i.links, name)
		}
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		first, err := i.inside(h.Linkname)
		if err != nil {
			return fmt.Errorf("a link to %q: %w", h.Linkname, err)
		}
		if fi, err := root.Lstat(first); err != nil || !fi.Mode().IsRegular() {
			return fmt.Errorf("a link to %q, which is not a file of the constellation", h.Linkname)
		}
		return root.Link(first, name)
	case tar.TypeReg:
		return writeBundled(root, name, h, r)
	}
	return errors.New("it is neither a file nor a directory nor a link")
}

// exactMode returns the mode as the key of a stage contains it, see [graph.ReadLocal].
func exactMode(h *tar.Header) fs.FileMode {
	return h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}

// followed reports whether a build would follow a link of that name. A link that is only
// copied into a machine may lead anywhere.
func followed(name string) bool { return !strings.Contains("/"+name, "/"+stages.Includes+"/") }

// checkLinks refuses links that would make a build read files of this host.
func checkLinks(root *os.Root, links []string) error {
	for _, name := range links {
		if _, err := root.Stat(name); err != nil {
			return fmt.Errorf("%q is a link out of the constellation, or to no file: %w", name, err)
		}
	}
	return nil
}

// writeBundled writes a file below root. The umask does not change its mode.
func writeBundled(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	mode := exactMode(h)
	if h.Size > maxBundled {
		return errors.New("the file is too large")
	}
	if mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		return hint.Add(errors.New("it would run as another user on this host"), ownersHint)
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, setAttributes(f, h), f.Chmod(mode), f.Close())
}

// setAttributes sets the extended attributes of the member.
func setAttributes(f *os.File, h *tar.Header) error {
	for record, value := range h.PAXRecords {
		name, ok := layer.Attribute(record)
		if !ok {
			continue
		}
		if !strings.HasPrefix(name, userAttribute) {
			return fmt.Errorf("it has the attribute %s, which is not a user's", name)
		}
		if err := unix.Fsetxattr(int(f.Fd()), name, []byte(value), 0); err != nil {
			return fmt.Errorf("set its attribute %s: %w", name, err)
		}
	}
	return nil
}

// ownersHint says how a machine gets a set-user-ID file.
const ownersHint = "chmod ug-s the file, and set its mode in the file owners beside " + stages.Includes + ": /PATH root:root 4755"
