// This file copies an output to a place outside of the cache.

package step

import (
	"context"
	"path/filepath"

	"meros/stages"
)

// copy copies the file.
func (s *step) copy(_ context.Context) error {
	return copyFile(s.paths(stages.InFile)[0], filepath.Join(s.Out, stages.OutFile))
}
