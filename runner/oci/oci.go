// Package oci reads images of containers that are on this host: a directory in
// the OCI image layout, or an archive as "docker save" and "podman save" write
// it. It reads what describes them; the layers stay where they are.
package oci

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
)

// refName is the annotation that names an image of a layout, annotations.md of
// the OCI image specification.
const refName = "org.opencontainers.image.ref.name"

// maxLayers is what Docker allows an image at the most, and more than an
// overlay is mounted of.
const maxLayers = 127

// Layer is one of an image.
type Layer struct {
	File   string // the layer itself, or the archive that has it
	Entry  string // name in the archive, or ""
	DiffID string // SHA-256 of what it is uncompressed, in hexadecimal
}

// Open reads the image at file, which is for machines of an architecture, as
// Go names it. tag chooses one of several; "" is for the only one. Its layers
// are in order, the lowest first.
func Open(file, tag, arch string) ([]Layer, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		if err := onlyFiles(file); err != nil {
			return nil, err
		}
		return openLayout(file, tag, arch)
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("is neither a file nor a directory")
	}
	return openArchive(file, tag, arch)
}

// onlyFiles refuses a layout in which something is no file: to read from a pipe
// would take for ever.
func onlyFiles(dir string) error {
	all := os.DirFS(dir)
	blobs, err := fs.Glob(all, "blobs/*/*")
	if err != nil {
		return err
	}
	for _, f := range append(blobs, indexFile, "oci-layout") {
		if fi, err := fs.Stat(all, f); err == nil && !fi.Mode().IsRegular() {
			return fmt.Errorf("is no image layout of OCI: %s in it is no file", f)
		}
	}
	return document(filepath.Join(dir, indexFile))
}

// indexFile begins a layout, OCI's image-layout.md.
const indexFile = "index.json"

// blob is the file of a layout that has a digest.
func blob(dir string, digest v1.Hash) string {
	return filepath.Join(dir, "blobs", digest.Algorithm, digest.Hex)
}

// document refuses a file that is too large to be read as a document.
func document(file string) error {
	if fi, err := os.Stat(file); err == nil && fi.Size() > maxDocument {
		return fmt.Errorf("is no image of containers: %s in it is larger than %d bytes", filepath.Base(file), int64(maxDocument))
	}
	return nil
}

func openLayout(dir, tag, arch string) ([]Layer, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("is no image layout of OCI: %w", err)
	}
	im, err := choose(dir, index, tag, arch, maxDepth)
	if err != nil {
		return nil, err
	}
	layers, err := im.Layers()
	if err != nil {
		return nil, err
	}
	var out []Layer
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return nil, err
		}
		out = append(out, Layer{File: blob(dir, digest)})
	}
	return describe(im, out, arch)
}

// maxDepth is how deep indexes name indexes.
const maxDepth = 4

// choose finds the image of the layout in dir for a machine, in the index itself or in
// one that it names for several architectures. The library does not compare
// what it reads with the digests that name it.
func choose(dir string, index v1.ImageIndex, tag, arch string, depth int) (v1.Image, error) {
	if depth == 0 {
		return nil, errors.New("names indexes in indexes without an end")
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var found []v1.Descriptor
	var names, platforms []string
	for _, d := range manifest.Manifests {
		ref := d.Annotations[refName]
		if tag != "" && ref != tag && !strings.HasSuffix(ref, ":"+tag) {
			if ref != "" {
				names = append(names, ref)
			}
			continue
		}
		if p := d.Platform; p != nil && p.Architecture != "" && (p.Architecture != arch || p.OS != "" && p.OS != "linux") {
			platforms = append(platforms, p.OS+"/"+p.Architecture)
			continue
		}
		found, names = append(found, d), append(names, ref)
	}
	if newest := slices.IndexFunc(found, func(d v1.Descriptor) bool { return d.Platform != nil && d.Platform.Variant == armVariant }); len(found) > 1 && arch == "arm" && newest >= 0 {
		found = found[newest : newest+1]
	}
	switch {
	case len(found) == 0 && len(platforms) > 0:
		return nil, fmt.Errorf("has no image for %s (it has %s)", arch, strings.Join(platforms, ", "))
	case len(found) == 0:
		return nil, fmt.Errorf("has no image %s (it has %s)", tag, strings.Join(names, ", "))
	case len(found) > 1:
		return nil, fmt.Errorf("has several images; name one after a colon (%s)", strings.Join(names, ", "))
	}
	if err := document(blob(dir, found[0].Digest)); err != nil {
		return nil, err
	}
	if found[0].MediaType.IsIndex() {
		inner, err := index.ImageIndex(found[0].Digest)
		if err != nil {
			return nil, err
		}
		if err := matches(found[0].Digest, inner.RawManifest); err != nil {
			return nil, err
		}
		return choose(dir, inner, "", arch, depth-1)
	}
	im, err := index.Image(found[0].Digest)
	if err != nil {
		return nil, err
	}
	if err := matches(found[0].Digest, im.RawManifest); err != nil {
		return nil, err
	}
	m, err := im.Manifest()
	if err != nil {
		return nil, err
	}
	if err := document(blob(dir, m.Config.Digest)); err != nil {
		return nil, err
	}
	return im, matches(m.Config.Digest, im.RawConfigFile)
}

// armVariant is the newest of the kinds of processors that "arm" may mean.
const armVariant = "v7"

// matches compares a document with the digest that names it.
func matches(want v1.Hash, read func() ([]byte, error)) error {
	b, err := read()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:]); want.Algorithm != "sha256" || got != want.Hex {
		return fmt.Errorf("the document %v has the digest sha256:%s", want, got)
	}
	return nil
}

func openArchive(file, tag, arch string) ([]Layer, error) {
	opener := func() (io.ReadCloser, error) { return os.Open(file) }
	if err := smallDocument(file, "manifest.json"); err != nil {
		return nil, err
	}
	manifest, err := tarball.LoadManifest(opener)
	if err != nil {
		layers, lerr := openArchivedLayout(file, tag, arch)
		if errors.Is(lerr, errNoLayout) {
			lerr = fmt.Errorf("is neither an archive that docker save writes nor one of an image layout: %w", err)
		}
		return layers, lerr
	}
	var entries, names []string
	full, meant := "", 0
	for _, d := range manifest {
		names = append(names, d.RepoTags...)
		i := slices.IndexFunc(d.RepoTags, func(t string) bool { return t == tag || strings.HasSuffix(t, ":"+tag) })
		if tag == "" && len(manifest) == 1 || tag != "" && i >= 0 {
			meant++
			if entries = d.Layers; tag != "" {
				full = d.RepoTags[i]
			}
		}
	}
	if meant > 1 {
		return nil, fmt.Errorf("has several images called %s; name one of them whole (%s)", tag, strings.Join(names, ", "))
	}
	if entries == nil {
		if tag == "" {
			return nil, fmt.Errorf("has several images; name one after a colon (%s)", strings.Join(names, ", "))
		}
		return nil, fmt.Errorf("has no image %s; name one after a colon (%s)", tag, strings.Join(names, ", "))
	}
	for _, d := range manifest {
		if err := smallDocument(file, d.Config); err != nil {
			return nil, err
		}
	}
	var ref *name.Tag
	if full != "" {
		t, err := name.NewTag(full)
		if err != nil {
			return nil, err
		}
		ref = &t
	}
	im, err := tarball.Image(opener, ref)
	if err != nil {
		return nil, err
	}
	var out []Layer
	for _, e := range entries {
		out = append(out, Layer{File: file, Entry: e})
	}
	return describe(im, out, arch)
}

var errNoLayout = errors.New("is no image layout of OCI")

// Bounds of what describes an image, bytes and documents; a layer may be as
// small, and is read in vain.
const (
	maxDocument  = 1 << 20
	maxDocuments = 1000
)

// openArchivedLayout reads an image layout in an archive: what describes it is
// unpacked, the layers stay where they are.
func openArchivedLayout(file, tag, arch string) ([]Layer, error) {
	dir, err := os.MkdirTemp("", "meros-oci-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := unpackDocuments(file, dir); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, indexFile)); err != nil {
		return nil, errNoLayout
	}
	layers, err := openLayout(dir, tag, arch)
	for i, l := range layers {
		entry, err := filepath.Rel(dir, l.File)
		if err != nil {
			return nil, err
		}
		layers[i].File, layers[i].Entry = file, entry
	}
	return layers, err
}

func unpackDocuments(file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	n := 0
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return errNoLayout
		}
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || h.Size > maxDocument || name != indexFile && name != "oci-layout" && !strings.HasPrefix(name, "blobs/") {
			continue
		}
		if n++; n > maxDocuments {
			return fmt.Errorf("has more than %d documents", maxDocuments)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		if err := errors.Join(root.MkdirAll(path.Dir(name), 0o700), root.WriteFile(name, b, 0o600)); err != nil {
			return err
		}
	}
}

// describe adds what the image's configuration says.
func describe(im v1.Image, layers []Layer, arch string) ([]Layer, error) {
	config, err := im.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read its configuration: %w", err)
	}
	if config.Architecture != arch || config.OS != "linux" {
		return nil, fmt.Errorf("is an image for %s/%s, not for linux/%s", config.OS, config.Architecture, arch)
	}
	if len(config.RootFS.DiffIDs) != len(layers) || len(layers) == 0 {
		return nil, fmt.Errorf("has %d layers, and its configuration speaks of %d", len(layers), len(config.RootFS.DiffIDs))
	}
	if len(layers) > maxLayers {
		return nil, fmt.Errorf("has %d layers; %d are the most", len(layers), maxLayers)
	}
	for i, d := range config.RootFS.DiffIDs {
		if d.Algorithm != "sha256" {
			return nil, fmt.Errorf("names its layers by %s, not by sha256", d.Algorithm)
		}
		layers[i].DiffID = d.Hex
	}
	return layers, nil
}

// maxLayer bounds what a layer unpacks to, bytes.
const maxLayer = 64 << 30

// Read gives a layer's archive, uncompressed, to use, and then checks that it
// was the one that the image's configuration names.
func (l Layer) Read(use func(io.Reader) error) error {
	f, err := os.Open(l.File)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := l.raw(f)
	if err != nil {
		return err
	}
	plain, err := decompress(bufio.NewReaderSize(r, 1<<16))
	if err != nil {
		return err
	}
	defer plain.Close()
	sum := &summed{r: plain, h: sha256.New(), left: maxLayer}
	if err := use(sum); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, sum); err != nil { // what follows the archive's end
		return err
	}
	if got := hex.EncodeToString(sum.h.Sum(nil)); got != l.DiffID {
		return fmt.Errorf("the layer has the digest sha256:%s, and the image says sha256:%s", got, l.DiffID)
	}
	return nil
}

// maxLinks is how many links lead to a layer in an archive: older versions of
// Docker write a layer once, and links to it.
const maxLinks = 8

// raw finds the layer in its file.
func (l Layer) raw(f *os.File) (io.Reader, error) {
	if l.Entry == "" {
		return f, nil
	}
	want := path.Clean(l.Entry)
	for range maxLinks {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		r, link, err := find(tar.NewReader(f), want)
		if err != nil || link == "" {
			return r, err
		}
		want = link
	}
	return nil, fmt.Errorf("%s is a link of links", l.Entry)
}

// find finds an entry's content, or the name of what it is a link to.
func find(tr *tar.Reader, want string) (r io.Reader, link string, err error) {
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil, "", fmt.Errorf("the archive has no %s", want)
		}
		if err != nil {
			return nil, "", err
		}
		if path.Clean(h.Name) != want {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			return tr, "", nil
		case tar.TypeSymlink:
			return nil, path.Join(path.Dir(want), h.Linkname), nil
		case tar.TypeLink:
			return nil, path.Clean(h.Linkname), nil
		}
	}
}

// smallDocument refuses an archive whose document of that name is too large to
// be read into memory.
func smallDocument(file, document string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err != nil {
			return nil // whoever reads it says so
		}
		if path.Clean(h.Name) == path.Clean(document) && h.Size > maxDocument {
			return fmt.Errorf("%s in it has %d bytes", h.Name, h.Size)
		}
	}
}

func decompress(r *bufio.Reader) (io.ReadCloser, error) {
	start, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}): // RFC 1952
		return gzip.NewReader(r)
	case bytes.Equal(start, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}

// summed hashes what is read, and ends it at a bound.
type summed struct {
	r    io.Reader
	h    hash.Hash
	left int64
}

func (s *summed) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.h.Write(b[:n])
	if s.left -= int64(n); s.left < 0 {
		return n, fmt.Errorf("the layer unpacks to more than %d bytes", int64(maxLayer))
	}
	return n, err
}
