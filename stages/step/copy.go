package step

import (
	"context"
	"path/filepath"

	"meros/stages"
)

// stepCopy gives an output to whoever looks for it outside of the store.
func stepCopy(_ context.Context, s *step) error {
	return moveFile(s.paths(stages.InFile)[0], filepath.Join(s.Out, stages.OutFile))
}
