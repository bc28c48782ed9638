// This file finds files in the directories of a constellation that no machine uses.

package stages

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"meros/constellations"
)

// Unread returns a note for each file or directory that looks like files or hooks of a
// machine, but that no machine uses. Most likely its name is a mistake.
func Unread(m *constellations.Manifest) ([]string, error) {
	known := []string{"common"}
	for i := range m.Machines {
		known = append(known, m.Machines[i].Name)
	}
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		return nil, err
	}
	var all []string
	files := false // owners of common/ apply to the files of all machines, and the reverse
	for _, name := range known {
		if _, err := os.Lstat(filepath.Join(m.Dir, name, Includes)); err == nil {
			files = true
		}
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		machine := slices.Contains(known, e.Name())
		here, err := unreadIn(filepath.Join(m.Dir, e.Name()), e.Name(), machine, files, known)
		if errors.Is(err, fs.ErrPermission) && !machine {
			continue // of another user: a build does not read it
		}
		if err != nil {
			return nil, err
		}
		all = append(all, here...)
	}
	return all, nil
}

// unreadIn is [Unread] for one directory of the constellation. machine says that it is a
// machine's or common/, files that some machine has files to copy in.
func unreadIn(dir, name string, machine, files bool, machines []string) ([]string, error) {
	parts := []string{Includes, "hooks", Owners}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	has := func(part string) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == part })
	}
	if !machine {
		if !has(Includes) && !has("hooks") {
			return nil, nil // it is for another purpose
		}
		return []string{fmt.Sprintf("%s is not used: no machine has this name%s", name, meant(name, machines))}, nil
	}
	var all []string
	for _, e := range entries {
		if near := constellations.Nearest(e.Name(), parts); near != "" && !slices.Contains(parts, e.Name()) && !has(near) {
			all = append(all, fmt.Sprintf("%s is not used%s", filepath.Join(name, e.Name()), meant(e.Name(), parts)))
		}
	}
	if has(Owners) && !files {
		all = append(all, fmt.Sprintf("%s is not used: there is no %s", filepath.Join(name, Owners), Includes))
	}
	hooks, err := os.ReadDir(filepath.Join(dir, "hooks"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, h := range hooks {
		if !strings.HasSuffix(h.Name(), hookSuffix) && !isEditors(h.Name()) && isScript(filepath.Join(dir, "hooks", h.Name())) {
			all = append(all, fmt.Sprintf("%s is not run: the names of hooks end in %s", filepath.Join(name, "hooks", h.Name()), hookSuffix))
		}
	}
	return all, nil
}

// meant returns a question for the known name that is most like name, or "".
func meant(name string, known []string) string {
	if near := constellations.Nearest(name, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// isScript reports whether a file begins as a script does, execve(2).
func isScript(file string) bool {
	if fi, err := os.Stat(file); err != nil || !fi.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	var begin [2]byte
	f.Read(begin[:])
	return string(begin[:]) == "#!"
}

// isEditors reports whether the name is one that editors give to their own files and to
// backups.
func isEditors(name string) bool { return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") }
