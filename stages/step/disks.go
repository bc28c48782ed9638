// This file makes a machine's further disks.

package step

import (
	"context"
	"os"
	"strconv"

	"meros/runner/image"
	"meros/stages"
)

// format makes a disk with an empty file system.
func (s *step) format(ctx context.Context) error {
	size, err := strconv.ParseInt(s.Params[stages.ParamSize], 10, 64)
	if err != nil {
		return err
	}
	o := image.FormatOptions{Kind: s.Params[stages.ParamFileSystem], Size: size, Label: s.Params[stages.ParamLabel], UUID: s.Params[stages.ParamUUID], Work: s.Work}
	return s.output(stages.OutImage, func(f *os.File) error { return image.Format(ctx, f, o) })
}

// convert makes a disk from an image.
func (s *step) convert(ctx context.Context) error {
	size, err := strconv.ParseInt(s.Params[stages.ParamSize], 10, 64)
	if err != nil {
		return err
	}
	disk, err := image.OpenForeign(ctx, s.given(stages.InImage), image.Options{Work: s.Work})
	if err != nil {
		return err
	}
	defer disk.Close()
	if size > 0 {
		if err := disk.Resize(size); err != nil {
			return err
		}
	}
	return s.output(stages.OutImage, disk.Write)
}
