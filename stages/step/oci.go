// This file converts one layer of a container image.

package step

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"meros/runner/layer"
	"meros/runner/oci"
	"meros/stages"
)

// oci imports the layer over the layers below it.
func (s *step) oci(ctx context.Context) error {
	lower := ""
	if below := s.paths(stages.InLower); len(below) > 0 {
		var err error
		if lower, err = s.lower(below); err != nil {
			return err
		}
	}
	tree := filepath.Join(s.Work, "tree")
	l := oci.Layer{File: s.given(stages.InLayer), Entry: s.Params[stages.ParamEntry], DiffID: s.Params[stages.ParamDiffID]}
	if err := l.Read(func(r io.Reader) error { return layer.Import(ctx, r, tree, lower) }); err != nil {
		return err
	}
	// Docker makes this file for itself.
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Remove(".dockerenv"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.outputLayer(ctx, tree, false)
}
