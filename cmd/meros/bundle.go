package main

import (
	"archive/tar"
	"bufio"
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
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"meros/cache"
	"meros/constellations"
	"meros/graph"
)

// A bundle is a tar archive, compressed by zstd: bundleFile, artifacts, entries
// and key texts under their names in a store, and the constellation's directory.
const bundleFile = "meros-bundle.json"

// bundleFormat is the version of what a bundle is.
const bundleFormat = 1

type bundleHead struct {
	Format        int    `json:"format"`
	Constellation string `json:"constellation"`
	Meros         string `json:"meros"`
}

type cacheExportCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation, which is built."`
	Machine       []string `arg:"" optional:"" help:"Machines (default: all)."`
	Output        string   `short:"o" placeholder:"FILE" help:"The file (default: CONSTELLATION.meros)."`
	RootfsOnly    bool     `help:"As of build."`
	Boot          bool     `help:"As of build."`
	ImagesOnly    bool     `help:"Leave out what is only needed to change something: packages, sources and the layers between."`
}

func (c *cacheExportCmd) args() []string {
	a := append([]string{"cache", "export", "--output=" + c.Output, c.Constellation}, c.Machine...)
	for flag, on := range map[string]bool{"--rootfs-only": c.RootfsOnly, "--boot": c.Boot, "--images-only": c.ImagesOnly} {
		if on {
			a = append(a, flag)
		}
	}
	return a
}

// Run implements the verb.
func (c *cacheExportCmd) Run(e *env) error {
	if c.Output == "" {
		c.Output = c.Constellation + ".meros"
	}
	var err error
	if c.Output, err = filepath.Abs(c.Output); err != nil {
		return err
	}
	f, err := (&buildCmd{Constellation: c.Constellation, Machine: c.Machine, RootfsOnly: c.RootfsOnly, Boot: c.Boot}).foresee(e)
	if err != nil {
		return err
	}
	for _, s := range f.all {
		if s.Outcome != graph.WouldReuse && s.Node.Deliver == "" {
			return fmt.Errorf("%s is not in the cache: %s (meros build %s)", s.Node.Name, f.reason(s), c.Constellation)
		}
	}
	if done, err := e.inNamespace(c.args()...); done {
		return err
	}
	store, err := e.openStore(false)
	if err != nil {
		return err
	}
	scratch, err := store.NewScratch(e.scratchDir())
	if err != nil {
		return err
	}
	defer scratch.Close()
	f.store = store
	size, err := c.write(e.ctx, f)
	if err != nil {
		return fmt.Errorf("export %s: %w", c.Constellation, err)
	}
	e.ui.say("%s  %s", c.Output, bytesText(size))
	return nil
}

// write writes the bundle; it has its name when it is complete.
func (c *cacheExportCmd) write(ctx context.Context, f *foreseen) (size int64, err error) {
	out, err := cache.NewUnfinished(c.Output)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	buffered := bufio.NewWriterSize(out, 1<<20)
	z, err := zstd.NewWriter(buffered, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return 0, err
	}
	w := tar.NewWriter(z)
	head, err := json.Marshal(bundleHead{bundleFormat, f.manifest.Name, version()})
	if err == nil {
		err = writeMember(w, bundleFile, 0o644, head)
	}
	if err == nil {
		err = c.writeStore(ctx, w, f)
	}
	if err == nil {
		err = bundleDirectory(w, f.manifest, out.Name(), c.Output)
	}
	if err == nil {
		err = errors.Join(w.Close(), z.Close(), buffered.Flush())
	}
	if err != nil {
		return 0, err
	}
	fi, err := out.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), out.Finish(0o644)
}

// writeStore writes what is of the store. The images have to be there.
func (c *cacheExportCmd) writeStore(ctx context.Context, w *tar.Writer, f *foreseen) error {
	artifacts, actions := c.contents(f)
	for _, s := range f.all {
		if !f.targets[s.Node] || s.Node.Deliver != "" {
			continue
		}
		entry, err := f.store.Lookup(s.Action)
		if err != nil {
			return fmt.Errorf("%s: %w (build it again)", s.Node.Name, err)
		}
		for _, a := range entry.Outputs {
			if err := f.store.Has(a); err != nil {
				return fmt.Errorf("%s: %w (build it again)", s.Node.Name, err)
			}
		}
	}
	return f.store.WriteBundle(ctx, w, artifacts, actions)
}

// contents are what a build needs to find everything, and, unless only images
// are asked for, what it needs to make any of it again.
func (c *cacheExportCmd) contents(f *foreseen) (artifacts []cache.Artifact, actions []cache.ActionID) {
	used := make(map[*graph.Node]bool)
	for _, s := range f.all {
		for _, in := range s.Node.Inputs {
			used[in.Node] = true
		}
	}
	seen := make(map[cache.Artifact]bool)
	add := func(a cache.Artifact) {
		if !seen[a] {
			seen[a] = true
			artifacts = append(artifacts, a)
		}
	}
	for _, s := range f.all {
		outputs := s.Node.Fixed
		if outputs == nil {
			entry, err := f.store.Lookup(s.Action)
			if err != nil {
				continue // a disk that is put together from images
			}
			outputs = entry.Outputs
			actions = append(actions, s.Action)
			if entry.Log != nil {
				add(*entry.Log)
			}
		}
		if c.ImagesOnly && used[s.Node] && !f.targets[s.Node] {
			continue
		}
		for _, a := range outputs {
			add(a)
		}
	}
	return artifacts, actions
}

func writeMember(w *tar.Writer, name string, mode int64, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// bundleDirectory adds the constellation's files, but for those.
func bundleDirectory(w *tar.Writer, m *constellations.Manifest, but ...string) error {
	return filepath.WalkDir(m.Dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if abs, err := filepath.Abs(file); err != nil || slices.Contains(but, abs) {
			return err
		}
		rel, err := filepath.Rel(m.Dir, file)
		if err != nil {
			return err
		}
		name := filepath.Join("constellations", m.Name, rel)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: name, Mode: int64(fi.Mode().Perm()), ModTime: time.Time{}, Format: tar.FormatPAX}
		switch {
		case d.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
			return w.WriteHeader(h)
		case d.Type() == fs.ModeSymlink:
			h.Typeflag = tar.TypeSymlink
			if h.Linkname, err = os.Readlink(file); err != nil {
				return err
			}
			return w.WriteHeader(h)
		case d.Type().IsRegular():
			return bundleRegular(w, h, file)
		}
		return fmt.Errorf("%s is neither a file nor a directory nor a link", file)
	})
}

func bundleRegular(w *tar.Writer, h *tar.Header, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, fi.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

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
	w, err := openWorkplace(e)
	if err != nil {
		return err
	}
	defer w.close()
	i := &bundleImport{store: w.store, scratch: w.scratch.Dir()}
	if err := i.read(e.ctx, file); err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	dir := filepath.Join(e.root, "constellations", i.head.Constellation)
	if _, err := os.Lstat(dir); err == nil {
		e.ui.note("%s is there already and is left as it is", dir)
	} else if err := moveDirectory(i.dir(), dir); err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	e.ui.say("%s: %d files of the cache, %s; meros build %s finds them", i.head.Constellation, i.files, bytesText(i.bytes), i.head.Constellation)
	return nil
}

// moveDirectory moves a directory, to another file system if need be.
func moveDirectory(from, to string) error {
	err := os.Rename(from, to)
	if errors.Is(err, unix.EXDEV) {
		err = os.CopyFS(to, os.DirFS(from))
	}
	return err
}

// bundleImport reads a bundle. Nothing of it can be relied on.
type bundleImport struct {
	store   *cache.Store
	scratch string
	head    bundleHead
	files   int
	bytes   int64
	links   []string // of the constellation that a build would follow
}

func (i *bundleImport) dir() string { return filepath.Join(i.scratch, "import") }

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
	if err := os.Mkdir(i.dir(), 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(i.dir())
	if err != nil {
		return err
	}
	defer root.Close()
	r := tar.NewReader(z)
	for first := true; ; first = false {
		h, err := r.Next()
		switch {
		case err == io.EOF && !first:
			return i.checkLinks(root)
		case err != nil:
			return fmt.Errorf("it is no bundle, or was cut off: %w", err)
		case first:
			err = i.readHead(h, r)
		default:
			err = i.member(ctx, root, h, r)
		}
		if err != nil {
			return err
		}
	}
}

func (i *bundleImport) readHead(h *tar.Header, r io.Reader) error {
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

// maxBundled is how large a file of a constellation may be, bytes.
const maxBundled = 8 << 30

func (i *bundleImport) member(ctx context.Context, root *os.Root, h *tar.Header, r io.Reader) error {
	err := i.store.ReadBundle(ctx, h, r)
	if !errors.Is(err, cache.ErrNotOurs) {
		i.files++
		i.bytes += h.Size
		return err
	}
	name, err := filepath.Rel(filepath.Join("constellations", i.head.Constellation), filepath.Clean(h.Name))
	if err != nil || !filepath.IsLocal(name) {
		return fmt.Errorf("%q: it is neither of the cache nor of the constellation", h.Name)
	}
	if h.Typeflag == tar.TypeSymlink && !strings.Contains("/"+name, "/includes.chroot/") {
		i.links = append(i.links, name)
	}
	if err := writeConstellation(root, name, h, r); err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	return nil
}

// checkLinks refuses links that would make a build read files of this host. A
// link that is only copied into a machine may lead anywhere there.
func (i *bundleImport) checkLinks(root *os.Root) error {
	for _, name := range i.links {
		if _, err := root.Stat(name); err != nil {
			return fmt.Errorf("%q is a link that leads to nothing of the constellation: %w", name, err)
		}
	}
	return nil
}

// writeConstellation writes a file of a constellation below root.
func writeConstellation(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	mode := fs.FileMode(h.Mode) & fs.ModePerm
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, mode|0o700)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		if h.Size > maxBundled {
			return errors.New("it is too large")
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode|0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Chmod(mode|0o600), f.Close())
	}
	return errors.New("it is neither a file nor a directory nor a link")
}
