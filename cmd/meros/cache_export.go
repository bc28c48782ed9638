// This file is the verb cache export: it writes a bundle, which a host without a network
// can build from.

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
	"meros/graph"
	"meros/runner/hint"
	"meros/runner/layer"
)

// A bundle is a tar archive, compressed with zstd. It holds bundleFile, then artifacts,
// entries and key texts under their names in a store, then the directory of the
// constellation.
const bundleFile = "meros-bundle.json"

// bundleFormat is the version of the format.
const bundleFormat = 1

// userAttribute begins the names of the extended attributes that a bundle carries. The
// kernel gives those no meaning, xattr(7).
const userAttribute = "user."

type bundleHead struct {
	Format        int    `json:"format"`
	Constellation string `json:"constellation"`
	Meros         string `json:"meros"`
}

type cacheExportCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation. It must be built."`
	Machine       []string `arg:"" optional:"" help:"Machines (default: all)."`
	Output        string   `short:"o" placeholder:"FILE" help:"File to write (default: CONSTELLATION.meros)."`
	RootfsOnly    bool     `help:"As for build."`
	Boot          bool     `help:"As for build."`
	ImagesOnly    bool     `help:"Leave out packages, sources and intermediate layers, which only changes need."`
}

func (c *cacheExportCmd) args() []string {
	return commandLine(append([]string{"cache", "export", c.Constellation}, c.Machine...), map[string]any{
		"output": c.Output, "rootfs-only": c.RootfsOnly, "boot": c.Boot, "images-only": c.ImagesOnly,
	})
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
	f, err := (&request{Constellation: c.Constellation, Machines: c.Machine, RootfsOnly: c.RootfsOnly, Boot: c.Boot, ToRun: c.ImagesOnly}).preview(e)
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
			return hint.Add(fmt.Errorf("%s is not in the cache: %s", s.Node.Name, f.reason(s)), "`meros build %s` builds it", c.Constellation)
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

// write writes the bundle and returns its size. The file gets its name when it is complete.
func (c *cacheExportCmd) write(ctx context.Context, f *preview, d *bundleDir, mode fs.FileMode) (size int64, err error) {
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

// writeStore writes the entries of the store. It fails if an image is missing.
func (c *cacheExportCmd) writeStore(ctx context.Context, w *tar.Writer, f *preview) error {
	artifacts, actions := c.contents(f)
	for _, s := range f.all {
		if !f.targets[s.Node] || s.Node.Deliver != "" {
			continue
		}
		entry, err := f.store.Lookup(s.Action)
		if err != nil {
			return hint.Add(fmt.Errorf("%s: %w", s.Node.Name, err), "build it again")
		}
		for _, a := range entry.Outputs {
			if err := f.store.Has(a); err != nil {
				return hint.Add(fmt.Errorf("%s: %w", s.Node.Name, err), "build it again")
			}
		}
	}
	return f.store.WriteBundle(ctx, w, artifacts, actions)
}

// contents returns the entries by which a build finds its targets. Unless only the images
// are requested, it adds everything that a build needs to make any of them again.
func (c *cacheExportCmd) contents(f *preview) (artifacts []cache.Artifact, actions []cache.ActionID) {
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
				continue // a delivered disk has no entry
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

// writeMember adds a member with that content.
func writeMember(w *tar.Writer, name string, mode int64, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// bundleDir is the directory of a constellation. A bundle can carry all its files, and a
// build needs no others.
type bundleDir struct {
	name string // of the constellation
	dir  string // not a link
}

// holds refuses a manifest that names files outside of its directory.
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
		return hint.Add(fmt.Errorf("the manifest names files outside of its directory, which would be missing elsewhere: %s", strings.Join(outside, ", ")), "copy them to %s and name them relative to it", d.dir)
	}
	return nil
}

// check refuses files that an import would refuse.
func (d *bundleDir) check() error {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return d.walk(func(rel, file string, fi fs.FileInfo) error {
		switch mode := fi.Mode(); {
		case mode.IsRegular() && mode&(fs.ModeSetuid|fs.ModeSetgid) != 0:
			return hint.Add(fmt.Errorf("%s runs as another user, and an import makes no such file", file), ownersHint)
		case mode.Type() == fs.ModeSymlink && followed(rel):
			if err := checkLinks(root, []string{rel}); err != nil {
				return hint.Add(err, "replace it by a copy, or by a relative link within %s", d.dir)
			}
		case !mode.IsRegular() && !mode.IsDir() && mode.Type() != fs.ModeSymlink:
			return fmt.Errorf("%s is neither a file nor a directory nor a link", file)
		}
		attributes, err := layer.Attributes(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for record := range attributes {
			if name, _ := layer.Attribute(record); !strings.HasPrefix(name, userAttribute) {
				return hint.Add(fmt.Errorf("%s has %s, and an import makes no such file", file, name), "setcap in a hook gives a file capabilities")
			}
		}
		return nil
	})
}

// walk calls do for the directory, as ".", and for each file in it.
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

// write adds the files of the directory to the archive, except those.
func (d *bundleDir) write(w *tar.Writer, but ...string) error {
	for i, file := range but {
		dir, err := filepath.EvalSymlinks(filepath.Dir(file))
		if err != nil {
			return err
		}
		but[i] = filepath.Join(dir, filepath.Base(file))
	}
	first := make(map[inode]string) // the first name of files that have several
	return d.walk(func(rel, file string, fi fs.FileInfo) (err error) {
		if slices.Contains(but, file) {
			return nil
		}
		st := fi.Sys().(*syscall.Stat_t)
		h := &tar.Header{Name: filepath.Join("constellations", d.name, rel), Mode: int64(st.Mode & 0o7777), ModTime: time.Time{}, Format: tar.FormatPAX}
		if h.PAXRecords, err = layer.Attributes(file); err != nil {
			return fmt.Errorf("%s: %w", file, err)
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
		case !fi.Mode().IsRegular():
			return fmt.Errorf("%s is neither a file nor a directory nor a link", file)
		}
		if st.Nlink > 1 {
			id := inode{st.Dev, st.Ino}
			if h.Linkname = first[id]; h.Linkname != "" {
				h.Typeflag, h.PAXRecords = tar.TypeLink, nil
				return w.WriteHeader(h)
			}
			first[id] = h.Name
		}
		return bundleRegular(w, h, file)
	})
}

// newBundleDir checks the directory of the constellation.
func newBundleDir(f *preview) (*bundleDir, error) {
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

// inode identifies a file that may have several names.
type inode struct{ dev, ino uint64 }

// bundleRegular adds a regular file.
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
