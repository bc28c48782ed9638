package runner

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// programDirs are where a program of the sandbox is looked for, in order.
var programDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// libraryDirs are where ld.so(8) finds the libraries of the distributions
// that meros knows.
var libraryDirs = []string{"/usr/local/lib", "/usr/local/lib/*-linux-gnu*", "/lib/*-linux-gnu*", "/usr/lib/*-linux-gnu*", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

// ProgramFiles returns the file of a host program and those of the shared
// libraries it names, links resolved: what a key must know of the program.
// The C library is left out; what it computes does not depend on its version.
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

// findLibrary is where the program's loader finds a library, or "".
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

// Libraries are the files that a dynamically linked program needs to run
// elsewhere, its loader and its shared libraries with all that those need: by
// the path that the loader looks for. A static program has none.
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
			return nil, fmt.Errorf("library %s is not found (build meros with CGO_ENABLED=0)", name)
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

// sameMachine tells whether file is a library that the program can load.
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
