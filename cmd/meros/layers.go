// This file fetches the layers of container images, for stages that may not see the
// credentials of registries.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
	"meros/runner/oci"
	"meros/stages"
)

// layerFetcher runs jobs in sandboxes and asks registries itself: the process that fetches
// a layer receives its bytes and never a credential.
type layerFetcher struct {
	graph.Sandboxed
	registries func() (*oci.Registries, error)
}

// RunJob implements [graph.Runner].
func (f *layerFetcher) RunJob(ctx context.Context, j *graph.Job) error {
	references := referencesOf(j.Node)
	if len(references) == 0 {
		return f.Sandboxed.RunJob(ctx, j)
	}
	body, err := f.open(ctx, references, j.Node.Fixed[stages.OutFile].Digest.Encoded())
	if err != nil {
		return err
	}
	defer body.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, body)
		w.Close()
		copied <- err
	}()
	sandboxed := f.Sandboxed
	sandboxed.Watch = func(j *graph.Job) runner.Stdio {
		stdio := f.Watch(j)
		stdio.Stdin = r
		return stdio
	}
	err = sandboxed.RunJob(ctx, j)
	select {
	case broken := <-copied:
		if broken != nil && !errors.Is(broken, syscall.EPIPE) && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", references[0], broken)
		}
	default: // the process ended before the layer did, and err has the reason
	}
	return err
}

// open opens the layer in the first registry that has it.
func (f *layerFetcher) open(ctx context.Context, references []string, digest string) (io.ReadCloser, error) {
	registries, err := f.registries()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, ref := range references {
		body, err := registries.Layer(ctx, ref, digest)
		if err == nil {
			return body, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// referencesOf returns the images that contain the layer that a node fetches from a
// registry, or nil.
func referencesOf(n *graph.Node) (references []string) {
	for _, u := range urlsOf(n) {
		if ref, ok := constellations.RegistryReference(u); ok {
			references = append(references, ref)
		}
	}
	return references
}

// openOCI reads the layers of a container image.
func openOCI(path, tag, arch string) ([]stages.OCILayer, error) {
	layers, err := oci.Open(path, tag, arch)
	out := make([]stages.OCILayer, len(layers))
	for i, l := range layers {
		out[i] = stages.OCILayer(l)
	}
	return out, err
}
