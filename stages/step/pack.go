// This file makes the images of a machine's disk.

package step

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"meros/graph"
	"meros/runner/hint"
	"meros/runner/image"
	"meros/stages"
)

// imageOptions returns the options of an image. Its identifiers follow from the digests
// of its content.
func (s *step) imageOptions(content []graph.StepInput) image.Options {
	size, _ := strconv.ParseInt(s.Params[stages.ParamSize], 10, 64)
	free, _ := strconv.ParseInt(s.Params[stages.ParamFreeMiB], 10, 64)
	var seed strings.Builder
	for _, in := range content {
		seed.WriteString(in.Digest.String() + "\n")
	}
	return image.Options{Size: size, Free: free << 20, Label: s.Params[stages.ParamLabel], Seed: seed.String(), Epoch: s.epoch(), Work: s.Work, Log: s.log}
}

// pack makes an image of layers.
func (s *step) pack(ctx context.Context) error {
	tree, err := s.lower(s.paths(stages.InLower))
	if err != nil {
		return err
	}
	o := s.imageOptions(s.All(stages.InLower))
	return s.output(stages.OutImage, func(f *os.File) error { return image.FromTree(ctx, f, tree, o) })
}

// delta makes the difference to the base image, or a whole image where a difference is
// not possible or not worth it.
func (s *step) delta(ctx context.Context) error {
	lower, err := s.lower(s.paths(stages.InLower))
	if err != nil {
		return err
	}
	base := s.All(stages.InBase)[0]
	o := s.imageOptions(nil)
	layout, err := s.layout()
	if err != nil {
		return err
	}
	if layout != nil && layout.Guest() {
		return s.deltaInGuest(ctx, layout)
	}
	if layout != nil {
		o.Patch, o.Offset = true, layout.Offset
	}
	err = s.output(stages.OutImage, func(f *os.File) error {
		return image.Delta(ctx, f, base.Path, imageName(base), lower, s.paths(stages.InUpper), o)
	})
	switch {
	case layout == nil:
	case errors.Is(err, image.ErrNoSpace):
		return err
	case errors.Is(err, image.ErrRepack) && len(s.paths(stages.InInitrd)) > 0:
		return s.deltaInGuest(ctx, layout)
	case errors.Is(err, image.ErrRepack):
		return hint.Add(err, "with `hooks: {in: vm}` the machine's own kernel writes it")
	}
	if !errors.Is(err, image.ErrRepack) {
		return err
	}
	all, err := s.workDir("all")
	if err != nil {
		return err
	}
	if err := mountOverlay(all, append(s.paths(stages.InLower), s.paths(stages.InUpper)...), "", ""); err != nil {
		return err
	}
	o = s.imageOptions(append(s.All(stages.InLower), s.All(stages.InUpper)...))
	return s.output(stages.OutImage, func(f *os.File) error { return image.FromTree(ctx, f, all, o) })
}

// imageName returns the name by which an image refers to the one below it. It is the
// same on every host.
func imageName(in graph.StepInput) string { return "sha256-" + in.Digest.Encoded() + ".qcow2" }

// disk makes one image of a machine's image and its base.
func (s *step) disk(ctx context.Context) error {
	chain, err := image.Chain(s.paths(stages.InImage)[0], s.paths(stages.InBase)[0])
	if err != nil {
		return err
	}
	return s.output(stages.OutDisk, func(f *os.File) error { return image.Flatten(ctx, f, chain) })
}
