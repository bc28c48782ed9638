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
)

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
