// Package oci reads images of containers that are on this host: a directory in
// the OCI image layout, or an archive as "docker save" and "podman save" write
// it. It reads what describes them; the layers stay where they are.
package oci

import (
	"errors"
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

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

// armVariant is the newest of the kinds of processors that "arm" may mean.
const armVariant = "v7"

// Bounds of what describes an image, bytes and documents; a layer may be as
// small, and is read in vain.
const (
	maxDocument  = 1 << 20
	maxDocuments = 1000
)

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
