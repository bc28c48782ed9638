package step

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"meros/runner/layer"
	"meros/runner/oci"
)

// stepOCI makes a layer of ours of one of an image of containers.
func stepOCI(ctx context.Context, s *step) error {
	lower := ""
	if below := s.paths("lower"); len(below) > 0 {
		var err error
		if lower, err = s.lower(below); err != nil {
			return err
		}
	}
	tree := filepath.Join(s.Work, "tree")
	l := oci.Layer{File: s.given("layer"), Entry: s.Params["entry"], DiffID: s.Params["diff-id"]}
	if err := l.Read(func(r io.Reader) error { return layer.Import(ctx, r, tree, lower) }); err != nil {
		return err
	}
	// Docker puts it there for itself.
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
