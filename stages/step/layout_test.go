// This test compares the files of the two halves of a stage.

package step

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestFileNames checks that a stage is planned and carried out in two files of
// one name.
func TestFileNames(t *testing.T) {
	plans := names(t, "..", "plan", "tools", "unread", "lock", "files", "kernel_build")
	does := names(t, ".", "step", "wire", "progress", "kernel_headers", "kernel_objects", "use_guest")
	if len(plans) < 15 || !slices.Equal(plans, does) {
		t.Errorf("stages has the files\n%q, and stages/step\n%q", plans, does)
	}
}

// names lists the files of a package without the ending, and without those that
// belong to no stage.
func names(t *testing.T, dir string, without ...string) (list []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".go")
		if !strings.HasSuffix(name, "_test") && !slices.Contains(without, name) {
			list = append(list, name)
		}
	}
	return list
}
