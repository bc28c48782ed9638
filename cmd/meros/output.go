// This file checks the file that a user names with -o before anything is written to it.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"meros/constellations"
	"meros/graph"
	"meros/runner/hint"
)

// checkOutput refuses a path that -o cannot write to, before a build spends time on it. It
// must be a regular file or not exist, in a writable directory. [checkInputs] checks more,
// once there is a plan.
func (e *env) checkOutput(file string) error {
	if err := e.outputProblem(file); err != nil {
		return usageError{fmt.Errorf("-o %s: %w", file, err)}
	}
	return nil
}

// outputProblem returns the reason why the file cannot be written.
func (e *env) outputProblem(file string) error {
	if file == "-" {
		return hint.Add(errors.New("cannot write to standard output: a file gets its name only when it is complete"), "name a file: -o FILE")
	}
	fi, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case fi.IsDir():
		return hint.Add(errors.New("this is a directory"), "name a file in it")
	case fi.Mode()&fs.ModeSymlink != 0:
		// A link to a regular file too: with ">FILE", /dev/stdout is such a link.
		return hint.Add(errors.New("this is a link, and a file would replace it"), "name the file that it leads to, or remove it")
	case !fi.Mode().IsRegular():
		return hint.Add(errors.New("not a regular file, and a file would replace it"), "name a file, and copy that")
	}
	data := e.dataDir()
	for _, own := range []string{"cache", "ssh", "state"} {
		if _, ok := beneath(file, filepath.Join(data, own)); ok {
			return hint.Add(fmt.Errorf("%s holds the state of meros", filepath.Join(data, own)), "name a file elsewhere")
		}
	}
	return directoryProblem(filepath.Dir(file), filepath.Join(data, "disks"))
}

// directoryProblem returns the reason why no file can be created in dir. The directory made
// need not exist: a build creates it.
func directoryProblem(dir, made string) error {
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && dir == made:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return hint.Add(fmt.Errorf("there is no directory %s", dir), "`mkdir -p` creates it")
	case err != nil:
		return err
	case !fi.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return hint.Add(fmt.Errorf("cannot create a file in %s: %w", dir, err), "name a file elsewhere")
	}
	return nil
}

// checkInputs refuses to replace a file that the plan reads.
func checkInputs(file string, m *constellations.Manifest, nodes []*graph.Node) error {
	refuse := func(what string) error {
		return usageError{hint.Add(fmt.Errorf("-o %s: %s reads this file", file, what), "name another file")}
	}
	for _, own := range []string{filepath.Join(m.Dir, "manifest.yml"), lockFile(m)} {
		if _, ok := beneath(file, own); ok {
			return refuse("a build")
		}
	}
	for _, n := range nodes {
		for _, l := range n.Locals {
			if rel, ok := beneath(file, l.Path); ok && !graph.Skipped(rel, l.Skip) {
				return refuse(n.Name)
			}
		}
		for _, s := range n.Shared { // files that a fetch copies
			if _, ok := beneath(file, s.Source); ok && !s.Writable {
				return refuse(n.Name)
			}
		}
	}
	return nil
}

// beneath reports whether a file, which need not exist, is top or below it, and returns its
// path from top. It follows links.
func beneath(file, top string) (rel string, ok bool) {
	want, err := os.Stat(top)
	if err != nil {
		return "", false
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(file)); err == nil {
		file = filepath.Join(dir, filepath.Base(file))
	}
	for at := file; ; at = filepath.Dir(at) {
		if fi, err := os.Stat(at); err == nil && os.SameFile(fi, want) {
			rel, err := filepath.Rel(at, file)
			return rel, err == nil
		}
		if at == filepath.Dir(at) {
			return "", false
		}
	}
}
