// This file writes the initrd.

package step

import (
	"context"
	"os"
	"strings"

	"meros/runner/initrd"
	"meros/stages"
)

// initrd packs the first program, its libraries and the kernel's modules.
func (s *step) initrd(_ context.Context) error {
	modules := ""
	if in := s.paths(stages.InModules); len(in) > 0 {
		modules = in[0]
	}
	libraries := make(map[string]string)
	for _, l := range s.Locals {
		if name, ok := strings.CutPrefix(l.Name, stages.InLibrary); ok {
			libraries[name] = l.Path
		}
	}
	return s.output(stages.OutInitrd, func(f *os.File) error { return initrd.Build(f, s.local(stages.InInit), modules, libraries) })
}
