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
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

	"meros/cache"
	"meros/constellations"
	"meros/graph"
	"meros/stages"
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
	if c.Output != "-" {
		if c.Output, err = filepath.Abs(c.Output); err != nil {
			return err
		}
	}
	if err := e.checkOutput(c.Output); err != nil {
		return err
	}
	f, err := (&buildCmd{Constellation: c.Constellation, Machine: c.Machine, RootfsOnly: c.RootfsOnly, Boot: c.Boot}).foresee(e)
	if err != nil {
		return err
	}
	if err := checkInputs(c.Output, f.manifest, f.nodes()); err != nil {
		return err
	}
	d, err := newBundleDir(f)
	if err != nil {
		return fmt.Errorf("export %s: %w", c.Constellation, err)
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
	size, err := c.write(e.ctx, f, d, e.outputMode)
	if err != nil {
		return fmt.Errorf("export %s: %w", c.Constellation, err)
	}
	e.ui.say("%s  %s", c.Output, bytesText(size))
	return nil
}

// write writes the bundle; it has its name when it is complete.
func (c *cacheExportCmd) write(ctx context.Context, f *foreseen, d *bundleDir, mode fs.FileMode) (size int64, err error) {
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
		err = d.write(w, out.Name(), c.Output)
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
	return fi.Size(), out.Finish(mode)
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

// bundleDir is the directory of a constellation, of which is known that it can
// be carried as it is and that a build needs nothing else.
type bundleDir struct {
	name string // of the constellation
	dir  string // no link
}

func newBundleDir(f *foreseen) (*bundleDir, error) {
	dir, err := filepath.EvalSymlinks(f.manifest.Dir)
	if err != nil {
		return nil, err
	}
	d := &bundleDir{f.manifest.Name, dir}
	if err := d.check(); err != nil {
		return nil, err
	}
	return d, d.holds(f.named)
}

// holds refuses files outside of the directory that the manifest names.
func (d *bundleDir) holds(named []string) error {
	var outside []string
	for _, file := range named {
		real, err := filepath.EvalSymlinks(file)
		if err != nil {
			return err
		}
		if rel, err := filepath.Rel(d.dir, real); (err != nil || !filepath.IsLocal(rel)) && !slices.Contains(outside, file) {
			outside = append(outside, file)
		}
	}
	if len(outside) > 0 {
		return fmt.Errorf("the manifest names what is not in the constellation's directory, and would be missing elsewhere: %s (put it into %s, and name it in the manifest relative to that)", strings.Join(outside, ", "), d.dir)
	}
	return nil
}

// check refuses what an import would refuse.
func (d *bundleDir) check() error {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return d.walk(func(rel, file string, fi fs.FileInfo) error {
		switch mode := fi.Mode(); {
		case mode.IsRegular() && mode&(fs.ModeSetuid|fs.ModeSetgid) != 0:
			return fmt.Errorf("%s runs as another user, and no import makes such a file (%s)", file, ownersHint)
		case mode.Type() == fs.ModeSymlink && followed(rel):
			if err := checkLinks(root, []string{rel}); err != nil {
				return fmt.Errorf("%w (replace it by what it leads to, or by a relative link within %s)", err, d.dir)
			}
		case !mode.IsRegular() && !mode.IsDir() && mode.Type() != fs.ModeSymlink:
			return fmt.Errorf("%s is neither a file nor a directory nor a link", file)
		}
		return nil
	})
}

// walk calls do for each file of the directory, and for that itself as ".".
func (d *bundleDir) walk(do func(rel, file string, fi fs.FileInfo) error) error {
	return filepath.WalkDir(d.dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(d.dir, file)
		if err != nil {
			return err
		}
		fi, err := entry.Info()
		if err != nil {
			return err
		}
		return do(rel, file, fi)
	})
}

// write adds the files of the directory, but for those.
func (d *bundleDir) write(w *tar.Writer, but ...string) error {
	for i, file := range but {
		dir, err := filepath.EvalSymlinks(filepath.Dir(file))
		if err != nil {
			return err
		}
		but[i] = filepath.Join(dir, filepath.Base(file))
	}
	return d.walk(func(rel, file string, fi fs.FileInfo) (err error) {
		if slices.Contains(but, file) {
			return nil
		}
		h := &tar.Header{
			Name: filepath.Join("constellations", d.name, rel), Mode: int64(fi.Sys().(*syscall.Stat_t).Mode & 0o7777), ModTime: time.Time{}, Format: tar.FormatPAX,
		}
		switch {
		case fi.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
			return w.WriteHeader(h)
		case fi.Mode().Type() == fs.ModeSymlink:
			h.Typeflag = tar.TypeSymlink
			if h.Linkname, err = os.Readlink(file); err != nil {
				return err
			}
			return w.WriteHeader(h)
		case fi.Mode().IsRegular():
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
	home := filepath.Join(e.root, "constellations")
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
	dirs    []bundledDir
}

// bundledDir is a directory whose mode is set when nothing is written any more.
type bundledDir struct {
	name string
	mode fs.FileMode
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
	for _, d := range slices.Backward(i.dirs) { // what is in one before it
		if err := root.Chmod(d.name, d.mode); err != nil {
			return err
		}
	}
	return nil
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
	if h.Typeflag == tar.TypeSymlink && followed(name) {
		i.links = append(i.links, name)
	}
	if h.Typeflag == tar.TypeDir {
		i.dirs = append(i.dirs, bundledDir{name, exactMode(h)})
	}
	if err := writeConstellation(root, name, h, r); err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	return nil
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

// writeConstellation writes a file of a constellation below root, with its mode
// whatever the umask is. A directory's is set at the end.
func writeConstellation(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	mode := exactMode(h)
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o700)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
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
		return errors.Join(err, f.Chmod(mode), f.Close())
	}
	return errors.New("it is neither a file nor a directory nor a link")
}

// ownersHint says how a machine gets a file that no bundle carries.
const ownersHint = "chmod ug-s it where it is from, and give its mode in the file owners beside " + stages.Includes + ": /PATH root:root 4755"
