// This file pins container images of registries: the digests of the manifest
// and of all layers.

package pin

import (
	"context"
	"fmt"
	"os"

	"meros/constellations"
	"meros/runner/oci"
	"meros/runner/sandbox"
)

// NewRegistries returns the registries with the credentials of the user who
// started meros.
func NewRegistries() (*oci.Registries, error) {
	return oci.NewRegistries(os.Getenv, sandbox.HostUser())
}

// pinContainerImage asks a registry for the digests of an image and its layers.
func pinContainerImage(ctx context.Context, s *constellations.Source) error {
	reference, _ := constellations.RegistryReference(s.URL)
	registries, err := NewRegistries()
	if err != nil {
		return err
	}
	manifest, layers, err := registries.Image(ctx, reference, s.Ref)
	if err != nil {
		return fmt.Errorf("image %s: %w", s.URL, err)
	}
	s.SHA256 = manifest
	for _, l := range layers {
		s.Layers = append(s.Layers, constellations.SourceLayer(l))
	}
	return nil
}
