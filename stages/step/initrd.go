package step

import (
	"context"
	"os"
	"strings"

	"meros/runner/initrd"
)

func stepInitrd(_ context.Context, s *step) error {
	modules := ""
	if in := s.paths("modules"); len(in) > 0 {
		modules = in[0]
	}
	libraries := make(map[string]string)
	for _, l := range s.Locals {
		if name, ok := strings.CutPrefix(l.Name, "library "); ok {
			libraries[name] = l.Path
		}
	}
	return s.output("initrd", func(f *os.File) error { return initrd.Build(f, s.local("init"), modules, libraries) })
}
