// This file reads images in tar archives: those of "docker save", and image layouts.

package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"meros/runner/hint"
)

// openArchive is [Open] for an archive.
func openArchive(file, tag, arch string) ([]Layer, error) {
	opener := func() (io.ReadCloser, error) { return os.Open(file) }
	if err := smallDocument(file, "manifest.json"); err != nil {
		return nil, err
	}
	manifest, err := tarball.LoadManifest(opener)
	if err != nil {
		layers, lerr := openArchivedLayout(file, tag, arch)
		if errors.Is(lerr, errNoLayout) {
			lerr = fmt.Errorf("neither an archive of docker save nor one of an OCI image layout: %w", err)
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
		return nil, hint.Add(fmt.Errorf("several images called %s in it", tag), "name one in full: %s", strings.Join(names, ", "))
	}
	if entries == nil {
		if tag == "" {
			return nil, nameOne(errors.New("several images in it"), names)
		}
		return nil, nameOne(fmt.Errorf("no image %s in it", tag), names)
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

var errNoLayout = errors.New("not an OCI image layout")

// openArchivedLayout reads an image layout in an archive. It unpacks the documents to a
// temporary directory; the layers stay in the archive.
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

// unpackDocuments unpacks the small files of a layout.
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
			return fmt.Errorf("more than %d documents", maxDocuments)
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

// smallDocument refuses an archive whose document of that name is too large to read
// into memory.
func smallDocument(file, document string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err != nil {
			return nil // reading the document fails later
		}
		if path.Clean(h.Name) == path.Clean(document) && h.Size > maxDocument {
			return fmt.Errorf("%s has %d bytes, more than the maximum of %d", h.Name, h.Size, int64(maxDocument))
		}
	}
}
