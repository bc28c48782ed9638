package oci

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// RemoteLayer is a layer in a registry.
type RemoteLayer struct {
	SHA256 string // of the layer as it is there, in hexadecimal
	Size   int64  // bytes
	DiffID string // SHA-256 of what it is uncompressed
}

// Resolve asks a registry which image a reference, such as debian:12, is now,
// for machines of an architecture as Go names it. The digests that it gives are
// those of what was read. Nobody is logged in.
func Resolve(ctx context.Context, reference, arch string) (manifest string, layers []RemoteLayer, err error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return "", nil, err
	}
	platform := v1.Platform{OS: "linux", Architecture: arch}
	if arch == "arm" {
		platform.Variant = armVariant
	}
	im, err := remote.Image(ref, remote.WithContext(ctx), remote.WithPlatform(platform))
	if err != nil {
		return "", nil, err
	}
	digest, err := im.Digest()
	if err != nil {
		return "", nil, err
	}
	m, err := im.Manifest()
	if err != nil {
		return "", nil, err
	}
	config, err := im.ConfigFile()
	if err != nil {
		return "", nil, err
	}
	switch {
	case config.Architecture != "" && config.Architecture != arch:
		return "", nil, fmt.Errorf("it is of %s, not of %s", config.Architecture, arch)
	case len(m.Layers) != len(config.RootFS.DiffIDs) || len(m.Layers) > maxLayers:
		return "", nil, fmt.Errorf("it has %d layers and says of %d what they are (at most %d are possible)", len(m.Layers), len(config.RootFS.DiffIDs), maxLayers)
	case len(m.Layers) == 0:
		return "", nil, errors.New("it has no layers")
	}
	for i, l := range m.Layers {
		if !l.MediaType.IsDistributable() || l.MediaType != types.OCILayerZStd && !l.MediaType.IsLayer() || l.Digest.Algorithm != "sha256" || config.RootFS.DiffIDs[i].Algorithm != "sha256" {
			return "", nil, fmt.Errorf("layer %d is a %s, which is no layer of a file system", i+1, l.MediaType)
		}
		layers = append(layers, RemoteLayer{l.Digest.Hex, l.Size, config.RootFS.DiffIDs[i].Hex})
	}
	return digest.Hex, layers, nil
}

// FetchLayer writes a layer as the registry of the reference has it. Who calls
// compares the digest.
func FetchLayer(ctx context.Context, w io.Writer, reference, sha256 string) error {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	l, err := remote.Layer(ref.Context().Digest("sha256:"+sha256), remote.WithContext(ctx))
	if err != nil {
		return err
	}
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}
