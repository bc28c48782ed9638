// This file finds and reads the files of the host that a manifest names or that lie
// in the directories of a constellation.

package stages

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"meros/constellations"
	"meros/graph"
)

// Includes is the directory, within a machine's and within common/, whose
// files are copied into the root file system.
const Includes = "includes.chroot"

// Owners is the file, beside [Includes], that gives the owners of included files.
const Owners = "owners"

// sources returns the directories of a constellation whose files and hooks a machine
// gets. Later ones win.
func sources(vm *constellations.Machine) []string { return []string{"common", vm.Name} }

// local reads a file or directory of the constellation, or returns nil if
// there is none.
func (pl *planner) local(name, rel string) (*graph.Local, error) {
	file := filepath.Join(pl.m.Dir, rel)
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return pl.file(name, file)
}

// file reads a local input that must exist. Machines share many of them, and file
// reads each once.
func (pl *planner) file(name, file string, skip ...string) (*graph.Local, error) {
	if l, ok := pl.locals[file]; ok {
		return l, nil
	}
	l, err := graph.ReadLocal(name, file, skip, pl.StatCache)
	if err != nil {
		return nil, err
	}
	pl.locals[file] = &l
	return &l, nil
}

// find is [Find] that remembers the file, see [Machine.Named].
func (pl *planner) find(what, name string) (string, error) {
	file, err := Find(pl.Root, pl.m, what, name)
	if err == nil {
		pl.named = append(pl.named, file)
	}
	return file, err
}

// Find returns the path of a file or directory that the manifest names. The name is
// relative to the root directory, as in the Python version, or to the constellation.
// Errors call the file by the text in what.
func Find(root string, m *constellations.Manifest, what, name string) (string, error) {
	tried := []string{name}
	if !filepath.IsAbs(name) {
		tried = []string{filepath.Join(root, name), filepath.Join(m.Dir, name)}
	}
	for _, f := range tried {
		if _, err := os.Stat(f); err == nil {
			return f, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s %s: %w", what, strconv.Quote(name), err)
		}
	}
	if filepath.IsAbs(name) {
		return "", fmt.Errorf("%s %s does not exist", what, name)
	}
	return "", fmt.Errorf("%s %s does not exist (looked for %s)", what, name, strings.Join(tried, " and "))
}
