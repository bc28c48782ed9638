// This file reads images in the OCI image layout, and chooses one of several by tag
// and architecture.

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

	"meros/runner/hint"
)

// refName is the annotation with the name of an image in a layout, annotations.md of
// the OCI image specification.
const refName = "org.opencontainers.image.ref.name"

// onlyFiles refuses a layout with anything but regular files: reading from a pipe would
// block forever.
func onlyFiles(dir string) error {
	all := os.DirFS(dir)
	blobs, err := fs.Glob(all, "blobs/*/*")
	if err != nil {
		return err
	}
	for _, f := range append(blobs, indexFile, "oci-layout") {
		if fi, err := fs.Stat(all, f); err == nil && !fi.Mode().IsRegular() {
			return fmt.Errorf("not an OCI image layout: %s is not a regular file", f)
		}
	}
	return document(filepath.Join(dir, indexFile))
}

// indexFile is the entry point of a layout, OCI's image-layout.md.
const indexFile = "index.json"

// blob returns the file of a digest in a layout.
func blob(dir string, digest v1.Hash) string {
	return filepath.Join(dir, "blobs", digest.Algorithm, digest.Hex)
}

// document refuses a file that is too large for a document.
func document(file string) error {
	if fi, err := os.Stat(file); err == nil && fi.Size() > maxDocument {
		return fmt.Errorf("not a container image: %s is larger than %d bytes", filepath.Base(file), int64(maxDocument))
	}
	return nil
}

// openLayout is [Open] for a layout.
func openLayout(dir, tag, arch string) ([]Layer, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("not an OCI image layout: %w", err)
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

// maxDepth limits how deep indexes are nested.
const maxDepth = 4

// choose finds the image in the layout dir, either in the index itself or in a nested
// index for several architectures. It checks the digest of each document, because the
// library does not.
func choose(dir string, index v1.ImageIndex, tag, arch string, depth int) (v1.Image, error) {
	if depth == 0 {
		return nil, fmt.Errorf("indexes are nested more than %d deep", maxDepth)
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
		return nil, fmt.Errorf("no image for %s, only for %s", arch, strings.Join(platforms, ", "))
	case len(found) == 0 && tag == "":
		return nil, errors.New("no image in it")
	case len(found) == 0:
		return nil, nameOne(fmt.Errorf("no image %s in it", tag), names)
	case len(found) > 1:
		return nil, nameOne(errors.New("several images in it"), names)
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

// nameOne adds the next step to an error about the choice of an image.
func nameOne(err error, names []string) error {
	return hint.Add(err, "name one after a colon: %s", strings.Join(names, ", "))
}

// matches compares a document with its digest.
func matches(want v1.Hash, read func() ([]byte, error)) error {
	b, err := read()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:]); want.Algorithm != "sha256" || got != want.Hex {
		return fmt.Errorf("document %v has the digest sha256:%s", want, got)
	}
	return nil
}
