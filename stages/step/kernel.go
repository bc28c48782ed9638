// This file extracts a distribution's kernel from its package.

package step

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"meros/runner/alpine"
	"meros/runner/debian"
	"meros/runner/layer"
	"meros/stages"
)

// kernel extracts the kernel and the modules that a machine needs. The log lists
// modules that the package does not have.
func (s *step) kernel(ctx context.Context) error {
	dest, err := s.workDir("kernel")
	if err != nil {
		return err
	}
	files, err := s.workDir("files")
	if err != nil {
		return err
	}
	modules, file := strings.Fields(s.Params[stages.ParamModules]), s.paths(stages.InDeb)[0]
	var missing []string
	if s.Params[stages.ParamFormat] == "apk" {
		contents := func(entry func(*tar.Header, io.Reader) error) error { return alpine.Contents(file, entry) }
		missing, err = debian.ExtractKernelFrom(ctx, file, contents, modules, dest, files)
	} else {
		missing, err = debian.ExtractKernel(ctx, file, modules, dest, files)
	}
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		fmt.Fprintf(s.log, "not in this kernel: %s\n", strings.Join(missing, " "))
	}
	for name, file := range map[string]string{stages.OutKernel: "vmlinuz", stages.OutRelease: "release", stages.OutConfig: "config"} {
		if err := copyFile(filepath.Join(dest, file), filepath.Join(s.Out, name)); err != nil {
			return err
		}
	}
	return s.outputSparse(stages.OutModules, func(w io.Writer) error {
		return layer.Capture(ctx, w, filepath.Join(dest, "modules"), s.epoch(), false)
	})
}
