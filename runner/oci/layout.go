package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// refName is the annotation that names an image of a layout, annotations.md of
// the OCI image specification.
const refName = "org.opencontainers.image.ref.name"

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
