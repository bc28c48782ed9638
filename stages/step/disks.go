package step

import (
	"context"
	"os"
	"strconv"

	"meros/runner/image"
	"meros/stages"
)

// stepFormat makes an empty disk.
func stepFormat(ctx context.Context, s *step) error {
	size, err := strconv.ParseInt(s.Params[stages.ParamSize], 10, 64)
	if err != nil {
		return err
	}
	o := image.FormatOptions{Kind: s.Params[stages.ParamFileSystem], Size: size, Label: s.Params[stages.ParamLabel], UUID: s.Params[stages.ParamUUID], Work: s.Work}
	return s.output(stages.OutImage, func(f *os.File) error { return image.Format(ctx, f, o) })
}

// stepConvert makes a further disk of an image.
func stepConvert(ctx context.Context, s *step) error {
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
