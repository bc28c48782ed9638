// This file installs the headers that modules are compiled with.

package step

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"meros/runner/kernel"
)

// installHeaders copies the files that compiling modules needs to
// /usr/src/linux-headers-RELEASE in tree. It chooses them as the kernel's
// scripts/package/install-extmod-build does.
func installHeaders(k kernelTree, objects, tree string, target kernel.Target) error {
	release, err := os.ReadFile(filepath.Join(objects, "include/config/kernel.release"))
	if err != nil {
		return err
	}
	name := strings.TrimSpace(string(release))
	dir := filepath.Join("usr/src", "linux-headers-"+name)
	to := filepath.Join(tree, dir)
	arch := filepath.Join("arch", target.Source)
	for _, from := range []struct {
		root string
		tops []string
		want func(rel string) bool
	}{
		{k.source, []string{"include", "scripts", arch}, func(rel string) bool {
			in, ok := strings.CutPrefix(rel, arch+"/")
			base := filepath.Base(rel)
			return !ok || strings.HasPrefix(in, "Makefile") || base == "Kbuild.platforms" || base == "Platform" ||
				strings.Contains("/"+in, "/include/") || strings.Contains("/"+in, "/scripts/")
		}},
		{objects, []string{"include", "scripts", filepath.Join(arch, "include")}, func(rel string) bool {
			base := filepath.Base(rel)
			return !strings.HasSuffix(base, ".o") && !strings.HasSuffix(base, ".a") && !strings.HasSuffix(base, ".cmd")
		}},
	} {
		for _, top := range from.tops {
			if err := copyFiles(from.root, top, to, from.want); err != nil {
				return fmt.Errorf("headers: %w", err)
			}
		}
	}
	for _, f := range []struct {
		root, name string
		optional   bool
	}{
		{k.source, "Makefile", false}, {objects, ".config", false}, {objects, "Module.symvers", false},
		{objects, "tools/objtool/objtool", true}, {objects, "tools/bpf/resolve_btfids/resolve_btfids", true},
	} {
		err := copyFiles(f.root, f.name, to, nil)
		if err != nil && !(f.optional && errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("headers: %w", err)
		}
	}
	modules := filepath.Join(tree, "usr/lib/modules", name)
	if err := os.MkdirAll(modules, 0o755); err != nil {
		return err
	}
	return os.Symlink("/"+dir, filepath.Join(modules, "build"))
}

// copyFiles copies the files and links at or below top in the directory from to the same
// places in the directory to. It replaces existing files. want chooses the files; nil
// chooses all.
func copyFiles(from, top, to string, want func(rel string) bool) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), top, func(rel string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || want != nil && !want(rel) {
			return err
		}
		dest := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
			return err
		}
		if err := os.Remove(dest); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			link, err := root.Readlink(rel)
			if err != nil {
				return err
			}
			return os.Symlink(link, dest)
		}
		content, err := root.ReadFile(rel)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(dest, content, fi.Mode().Perm()|0o644)
	})
}
