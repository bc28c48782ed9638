// Package oci reads container images: from a directory in the OCI image layout, an
// archive of "docker save" or "podman save", or a registry.
//
// It reads the documents that describe an image, and opens layers. It does not unpack
// layers, and knows nothing of machines and stages.
package oci

import (
	"errors"
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxLayers is Docker's limit for an image. It is also more than an overlay mount
// accepts.
const maxLayers = 127

// Layer is a layer of an image on this host.
type Layer struct {
	File   string // the layer itself, or the archive that contains it
	Entry  string // name in the archive, or ""
	DiffID string // SHA-256 of the uncompressed layer, in hexadecimal
}

// Open reads the image at file for machines of an architecture, by Go's name. tag
// chooses one of several images; "" stands for the only one. Open returns the layers
// in order, the lowest first.
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
		return nil, errors.New("neither a file nor a directory")
	}
	return openArchive(file, tag, arch)
}

// armVariant is the newest variant of the architecture "arm".
const armVariant = "v7"

// Limits of the documents that describe an image. A small layer in an archive looks
// like a document, and is read for nothing.
const (
	maxDocument  = 1 << 20 // bytes
	maxDocuments = 1000
)

// describe adds the DiffIDs of the image's configuration to the layers.
func describe(im v1.Image, layers []Layer, arch string) ([]Layer, error) {
	config, err := im.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if config.Architecture != arch || config.OS != "linux" {
		return nil, fmt.Errorf("an image for %s/%s, not for linux/%s", config.OS, config.Architecture, arch)
	}
	if len(config.RootFS.DiffIDs) != len(layers) || len(layers) == 0 {
		return nil, fmt.Errorf("%d layers, but the configuration describes %d", len(layers), len(config.RootFS.DiffIDs))
	}
	if len(layers) > maxLayers {
		return nil, fmt.Errorf("%d layers, more than the maximum of %d", len(layers), maxLayers)
	}
	for i, d := range config.RootFS.DiffIDs {
		if d.Algorithm != "sha256" {
			return nil, fmt.Errorf("the layers are named by %s, not by sha256", d.Algorithm)
		}
		layers[i].DiffID = d.Hex
	}
	return layers, nil
}
