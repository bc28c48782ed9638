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
	"meros/runner/layer"
	"meros/stages"
)

type cacheImportCmd struct {
	File string `arg:"" help:"What meros cache export wrote. Import only from those whose images you would start: what it says of an action is believed."`
}

// Run implements the verb.
func (c *cacheImportCmd) Run(e *env) error {
	file, err := filepath.Abs(c.File)
	if err != nil {
		return err
	}
	if fi, err := os.Stat(file); err != nil || !fi.Mode().IsRegular() {
		return usageError{fmt.Errorf("%s: there is no such file", c.File)}
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
		err = i.place(func() { e.ui.note("%s is there already and is left as it is", i.target()) })
	}
	if err = errors.Join(err, i.close()); err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	e.ui.say("%s: %d files of the cache, %s; meros build %s finds them", i.head.Constellation, i.files, bytesText(i.bytes), i.head.Constellation)
	return nil
}

// unfinishedImport begins the name of a directory beside the constellations, in
// which one is until it is whole. It may be a file system of its own, so that
// nothing can be moved there from elsewhere.
const unfinishedImport = ".meros-import-"

// bundleImport reads a bundle. Nothing of it can be relied on.
type bundleImport struct {
	store   *cache.Store
	home    string // where constellations are, locked
	scratch string // for one that is only read, as it is there already
	head    bundleHead
	tmp     string // holds the constellation's directory until that is whole
	exists  bool   // the constellation
	files   int
	bytes   int64
	links   []string // of the constellation that a build would follow
	dirs    []*tar.Header
	said    int64 // bytes of what is kept of directories
}

func (i *bundleImport) target() string { return filepath.Join(i.home, i.head.Constellation) }

// open makes the directory to unpack into, and removes what an import that was
// killed has left.
func (i *bundleImport) open() (*os.Root, error) {
	left, _ := filepath.Glob(filepath.Join(i.home, unfinishedImport+"*"))
	for _, dir := range left {
		os.RemoveAll(dir)
	}
	parent := i.home
	if _, err := os.Lstat(i.target()); err == nil {
		i.exists, parent = true, i.scratch // where it is need not be writable
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

// place gives the constellation its name, or calls exists if that is taken.
func (i *bundleImport) place(exists func()) error {
	if i.exists {
		exists()
		return nil
	}
	return os.Rename(filepath.Join(i.tmp, i.head.Constellation), i.target())
}

// close removes what was not placed.
func (i *bundleImport) close() error {
	if i.tmp == "" {
		return nil
	}
	return os.RemoveAll(i.tmp)
}

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

func cutOff(err error) error { return fmt.Errorf("it is no bundle, or was cut off: %w", err) }

// finish is called when all is written.
func (i *bundleImport) finish(root *os.Root) error {
	if err := checkLinks(root, i.links); err != nil {
		return err
	}
	for _, h := range slices.Backward(i.dirs) { // what is in one before it
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

// finishDir gives a directory what it has besides its files.
func finishDir(root *os.Root, name string, h *tar.Header) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(setAttributes(f, h), f.Chmod(exactMode(h)))
}

// inside is a member's name from the constellation's directory.
func (i *bundleImport) inside(member string) (string, error) {
	name, err := filepath.Rel(filepath.Join("constellations", i.head.Constellation), filepath.Clean(member))
	if err != nil || !filepath.IsLocal(name) {
		return "", errors.New("it is neither of the cache nor of the constellation")
	}
	return name, nil
}

func (i *bundleImport) readHead(r *tar.Reader) error {
	h, err := r.Next()
	if err != nil {
		return cutOff(err)
	}
	if h.Name != bundleFile {
		return errors.New("it is no bundle of meros cache export")
	}
	if err := json.NewDecoder(io.LimitReader(r, 1<<16)).Decode(&i.head); err != nil {
		return fmt.Errorf("it is no bundle: %w", err)
	}
	if i.head.Format != bundleFormat {
		return fmt.Errorf("it is a bundle of format %d, and this meros reads %d (%s wrote it)", i.head.Format, bundleFormat, i.head.Meros)
	}
	if !constellations.IsName(i.head.Constellation) {
		return fmt.Errorf("%q cannot be the name of a constellation", i.head.Constellation)
	}
	return nil
}

// maxDirectories bounds the names and attributes of directories, bytes, with
// what each takes in memory besides.
const (
	maxDirectories = 64 << 20
	headerSize     = 512
)

// maxBundled is how large a file of a constellation may be, bytes.
const maxBundled = 8 << 30

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
		i.dirs = append(i.dirs, d) // the rest when nothing is written any more
		for key, value := range h.PAXRecords {
			i.said += int64(len(key) + len(value))
		}
		if i.said += int64(len(h.Name)) + headerSize; i.said > maxDirectories {
			return errors.New("what it says of its directories is too large")
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
			return fmt.Errorf("a link to %q, which is no file of it", h.Linkname)
		}
		return root.Link(first, name)
	case tar.TypeReg:
		return writeBundled(root, name, h, r)
	}
	return errors.New("it is neither a file nor a directory nor a link")
}

// exactMode is the mode as the key of a stage has it, see [graph.ReadLocal].
func exactMode(h *tar.Header) fs.FileMode {
	return h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}

// followed tells whether a build would follow a link of that name. One that is
// only copied into a machine may lead anywhere there.
func followed(name string) bool { return !strings.Contains("/"+name, "/"+stages.Includes+"/") }

// checkLinks refuses links that would make a build read files of this host.
func checkLinks(root *os.Root, links []string) error {
	for _, name := range links {
		if _, err := root.Stat(name); err != nil {
			return fmt.Errorf("%q is a link that leads to nothing of the constellation: %w", name, err)
		}
	}
	return nil
}

// writeBundled writes a file below root, with its mode whatever the umask is.
func writeBundled(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	mode := exactMode(h)
	if h.Size > maxBundled {
		return errors.New("it is too large")
	}
	if mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		return errors.New("it would run as another user on this host (" + ownersHint + ")")
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, setAttributes(f, h), f.Chmod(mode), f.Close())
}

// setAttributes gives a file the extended attributes that a member has.
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

// ownersHint says how a machine gets a file that no bundle carries.
const ownersHint = "chmod ug-s it where it is from, and give its mode in the file owners beside " + stages.Includes + ": /PATH root:root 4755"
