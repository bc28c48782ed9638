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
)

// checkOutput tells what is wrong with a path that -o gave, before anything is
// made to be put there: it must be a regular file or nothing, in a directory
// that can be written to. [checkInputs] knows more, when there is a plan.
func (e *env) checkOutput(file string) error {
	if err := e.outputProblem(file); err != nil {
		return usageError{fmt.Errorf("-o %s: %w", file, err)}
	}
	return nil
}

func (e *env) outputProblem(file string) error {
	if file == "-" {
		return errors.New("standard output is not written to: a file gets its name when it is complete (-o FILE)")
	}
	fi, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case fi.IsDir():
		return errors.New("this is a directory (name a file in it)")
	case fi.Mode()&fs.ModeSymlink != 0:
		// Also one to a regular file: with ">FILE" /dev/stdout is such a link.
		return errors.New("this is a link, and would be replaced by a file (name the file that it leads to, or remove it)")
	case !fi.Mode().IsRegular():
		return errors.New("this is no regular file, and would be replaced by one (name a file, and copy that)")
	}
	data := e.dataDir()
	for _, own := range []string{"cache", "ssh", "state"} {
		if _, ok := beneath(file, filepath.Join(data, own)); ok {
			return fmt.Errorf("%s is for what meros keeps for itself (name a file elsewhere)", filepath.Join(data, own))
		}
	}
	return directoryProblem(filepath.Dir(file), filepath.Join(data, "disks"))
}

// directoryProblem is why no file can be made in dir, which needs not exist if
// it is the one that is made when it is needed.
func directoryProblem(dir, made string) error {
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && dir == made:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no directory %s (mkdir -p makes it)", dir)
	case err != nil:
		return err
	case !fi.IsDir():
		return fmt.Errorf("%s is no directory", dir)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("no file can be made in %s: %w (name one elsewhere)", dir, err)
	}
	return nil
}

// checkInputs makes sure that no file that the user wrote, and that the plan
// reads, is replaced by what is made of it.
func checkInputs(file string, m *constellations.Manifest, nodes []*graph.Node) error {
	refuse := func(what string) error {
		return usageError{fmt.Errorf("-o %s: %s reads it, and what is read is never written to (name another file)", file, what)}
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

// beneath is the name of a file, which needs not exist, from top, if it is top
// or below it, whatever links lead there.
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
