package runner

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
)

// programDirs are where a program of the sandbox is looked for, in order.
var programDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// libraryDirs are where ld.so(8) finds the libraries of the distributions
// that meros knows.
var libraryDirs = []string{"/lib/*-linux-gnu*", "/usr/lib/*-linux-gnu*", "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"}

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
	var dirs []string
	for _, pattern := range libraryDirs {
		found, _ := filepath.Glob(pattern)
		dirs = append(dirs, found...)
	}
	for _, lib := range libs {
		if lib == "libc.so.6" {
			continue
		}
		for _, d := range dirs {
			file := filepath.Join(d, lib)
			if _, err := os.Stat(file); err == nil {
				files = append(files, file)
				break
			}
		}
	}
	return resolveAll(files)
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
