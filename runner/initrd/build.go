// This file writes initrds: the shared one of a kernel, and the one of a run,
// which adds the files of one machine.

package initrd

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// moduleDir holds the kernel modules of an initrd. Its file order lists the
// modules to load, in that order.
const moduleDir = "modules"

// Build writes an initrd whose /init is the program at init. As process 1 that
// program must call [Main]. libraries are the files that it loads, by path.
// modules is a directory of kernel modules, or ""; its file order lists them in
// the order in which to load them.
func Build(w io.Writer, init, modules string, libraries map[string]string) error {
	program, err := loadable(init)
	if err != nil {
		return fmt.Errorf("read %s: %w", init, err)
	}
	files := []File{{Name: "init", Mode: 0o755, Data: program}, {Name: "dev/console", Mode: 0o600, Char: [2]int{5, 1}}}
	for name, file := range libraries {
		files = append(files, File{Name: name, Mode: 0o755, Source: file})
	}
	if modules != "" {
		order, err := os.Open(filepath.Join(modules, "order"))
		if err != nil {
			return err
		}
		defer order.Close()
		var names strings.Builder
		for s := bufio.NewScanner(order); s.Scan(); {
			name := s.Text()
			if name == "" || strings.ContainsAny(name, "/\x00") {
				return fmt.Errorf("invalid module file name %q", name)
			}
			names.WriteString(name + "\n")
			files = append(files, File{Name: moduleDir + "/" + name, Mode: 0o644, Source: filepath.Join(modules, name)})
		}
		files = append(files, File{Name: moduleDir + "/order", Mode: 0o644, Data: []byte(names.String())})
	}
	return WriteCpio(w, files)
}

// runDir is the directory in an initrd with the files of one machine.
const runDir = "meros-run"

// WriteRun creates file from the initrd base and more files: secrets and late
// settings. They are copied into the guest's root before its init starts. Only
// its owner can ever read file.
func WriteRun(file, base string, files []File) error {
	renamed := make([]File, len(files))
	for i, f := range files {
		f.Name = runDir + "/" + f.Name
		renamed[i] = f
	}
	return appendFiles(file, base, renamed)
}

// appendFiles creates file from the initrd base and more files.
func appendFiles(file, base string, files []File) (err error) {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	in, err := os.Open(base)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return WriteCpio(out, files)
}

// loadable returns the part of a program that the kernel loads. It omits the
// symbols and debug information at the end, and clears the section table in the
// header.
func loadable(program string) ([]byte, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	end := uint64(0)
	for _, p := range f.Progs {
		end = max(end, p.Off+p.Filesz)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	if f.Class != elf.ELFCLASS64 || end < elf64Header || end > uint64(len(b)) {
		return b, nil
	}
	b = b[:end]
	clear(b[elf64SectionTable : elf64SectionTable+8])
	clear(b[elf64SectionCounts:elf64Header])
	return b, nil
}

// Offsets in the header of a 64-bit program, elf(5): e_shoff, then e_shentsize
// with e_shnum and e_shstrndx, which end the header.
const (
	elf64SectionTable  = 0x28
	elf64SectionCounts = 0x3A
	elf64Header        = 0x40
)
