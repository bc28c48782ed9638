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

// fetchesOfLayers runs jobs in sandboxes, and asks registries itself: the
// process that fetches a layer is given its bytes, and never a credential.
type fetchesOfLayers struct {
	graph.Sandboxed
	registries func() (*oci.Registries, error)
}

// RunJob implements [graph.Runner].
func (f *fetchesOfLayers) RunJob(ctx context.Context, j *graph.Job) error {
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
	default: // the process ended before the layer did, and says why
	}
	return err
}

// open asks the registries in turn: a layer may be in several.
func (f *fetchesOfLayers) open(ctx context.Context, references []string, digest string) (io.ReadCloser, error) {
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

// referencesOf are the images that have the layer of a registry that a node
// fetches, if it does.
func referencesOf(n *graph.Node) (references []string) {
	for _, u := range urlsOf(n) {
		if ref, ok := constellations.RegistryReference(u); ok {
			references = append(references, ref)
		}
	}
	return references
}

// openOCI reads what describes an image of containers.
func openOCI(path, tag, arch string) ([]stages.OCILayer, error) {
	layers, err := oci.Open(path, tag, arch)
	out := make([]stages.OCILayer, len(layers))
	for i, l := range layers {
		out[i] = stages.OCILayer(l)
	}
	return out, err
}
