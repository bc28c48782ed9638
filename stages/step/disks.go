package step

import (
	"context"
	"os"
	"strconv"

	"meros/runner/image"
)

// stepFormat makes an empty disk.
func stepFormat(ctx context.Context, s *step) error {
	size, err := strconv.ParseInt(s.Params["size"], 10, 64)
	if err != nil {
		return err
	}
	o := image.FormatOptions{Kind: s.Params["fs"], Size: size, Label: s.Params["label"], UUID: s.Params["uuid"], Work: s.Work}
	return s.output("image", func(f *os.File) error { return image.Format(ctx, f, o) })
}

// stepConvert makes a further disk of an image.
func stepConvert(ctx context.Context, s *step) error {
	size, err := strconv.ParseInt(s.Params["size"], 10, 64)
	if err != nil {
		return err
	}
	disk, err := image.OpenForeign(ctx, s.given("image"), image.Options{Work: s.Work})
	if err != nil {
		return err
	}
	defer disk.Close()
	if size > 0 {
		if err := disk.Resize(size); err != nil {
			return err
		}
	}
	return s.output("image", disk.Write)
}
