// This file finds the host's programs and the libraries that they load, so that
// keys can name them and an initrd can contain them.

package runner

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"meros/runner/hint"
)

// programDirs lists the directories that are searched for programs, in order.
var programDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// libraryDirs lists the directories where ld.so(8) finds libraries, on all
// distributions that meros supports.
var libraryDirs = []string{"/usr/local/lib", "/usr/local/lib/*-linux-gnu*", "/lib/*-linux-gnu*", "/usr/lib/*-linux-gnu*", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

// ProgramFiles returns the file of a host program and the files of the shared
// libraries that it names, links resolved. A key must contain all of them. The C
// library is left out, because its version does not change the results.
func ProgramFiles(name string) ([]string, error) {
	var file string
	for _, d := range programDirs {
		if fi, err := os.Stat(filepath.Join(d, name)); err == nil && fi.Mode().IsRegular() {
			file = filepath.Join(d, name)
			break
		}
	}
	if file == "" {
		return nil, fmt.Errorf("%s is not installed", name)
	}
	files := []string{file}
	f, err := elf.Open(file)
	if err != nil {
		return resolveAll(files) // a script
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		return resolveAll(files)
	}
	for _, lib := range libs {
		if lib == "libc.so.6" {
			continue
		}
		if file := findLibrary(lib, f); file != "" {
			files = append(files, file)
		}
	}
	return resolveAll(files)
}

// findLibrary returns the file that the program's loader finds for a library, or
// "".
func findLibrary(name string, program *elf.File) string {
	for _, pattern := range libraryDirs {
		dirs, _ := filepath.Glob(pattern)
		for _, d := range dirs {
			if file := filepath.Join(d, name); sameMachine(file, program) {
				return file
			}
		}
	}
	return ""
}

// Libraries returns the files that a dynamically linked program needs in order
// to run elsewhere: its loader and, recursively, its shared libraries. The map's
// keys are the paths where the loader looks for them. A static program needs
// none.
func Libraries(file string) (map[string]string, error) {
	program, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	interp := program.Section(".interp")
	if interp == nil {
		return nil, nil
	}
	b, err := interp.Data()
	if err != nil {
		return nil, err
	}
	loader := strings.Trim(string(b), "\x00")
	all := map[string]string{strings.TrimPrefix(loader, "/"): loader}
	todo, err := program.ImportedLibraries()
	for len(todo) > 0 && err == nil {
		name := todo[0]
		todo = todo[1:]
		if _, seen := all["lib/"+name]; seen || name == filepath.Base(loader) {
			continue
		}
		found := findLibrary(name, program)
		if found == "" {
			return nil, hint.Add(fmt.Errorf("library %s not found", name), "build meros with CGO_ENABLED=0")
		}
		all["lib/"+name] = found
		var l *elf.File
		if l, err = elf.Open(found); err != nil {
			return nil, err
		}
		var more []string
		more, err = l.ImportedLibraries()
		todo = append(todo, more...)
		l.Close()
	}
	return all, err
}

// sameMachine reports whether file is a library that the program can load.
func sameMachine(file string, program *elf.File) bool {
	l, err := elf.Open(file)
	if err != nil {
		return false
	}
	defer l.Close()
	return l.Class == program.Class && l.Machine == program.Machine
}

func resolveAll(files []string) ([]string, error) {
	for i, f := range files {
		r, err := filepath.EvalSymlinks(f)
		if err != nil {
			return nil, err
		}
		files[i] = r
	}
	return files, nil
}
