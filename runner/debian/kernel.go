// This file extracts a kernel and some of its modules from a package.

package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxModule and maxKernel limit one file of a kernel package, bytes.
	maxModule = 64 << 20
	maxKernel = 256 << 20
)

// ExtractKernel reads a linux-image package. It writes the files vmlinuz, config
// and release (as uname -r prints it) to the directory dest. It writes the named
// modules and all their dependencies to dest/modules/, decompressed. The file
// dest/modules/order lists them in the order of loading. missing has the names
// that are neither built in nor in the package. work is an existing directory for
// temporary files.
func ExtractKernel(ctx context.Context, deb string, modules []string, dest, work string) (missing []string, err error) {
	d, err := openDeb(ctx, deb)
	if err != nil {
		return nil, err
	}
	defer d.close()
	contents := func(entry func(*tar.Header, io.Reader) error) error { return d.contents(ctx, entry) }
	return ExtractKernelFrom(ctx, deb, contents, modules, dest, work)
}

// ExtractKernelFrom does the work of [ExtractKernel] for a package of any format.
// contents must call its argument for each file of the package. name appears in
// errors.
func ExtractKernelFrom(ctx context.Context, name string, contents func(func(*tar.Header, io.Reader) error) error, modules []string, dest, work string) (missing []string, err error) {
	k := &kernelPackage{dest: dest, work: work, files: make(map[string]string), builtin: make(map[string]bool)}
	if err := contents(k.entry); err != nil {
		return nil, err
	}
	if k.flavour == "" {
		return nil, fmt.Errorf("package %s: there is no boot/vmlinuz-* in it", name)
	}
	if k.release == "" {
		k.release = k.flavour // the package has no modules
	}
	if err := os.WriteFile(filepath.Join(dest, "release"), []byte(k.release+"\n"), 0o644); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(dest, "modules"), 0o755); err != nil {
		return nil, err
	}
	for _, m := range modules {
		err := k.load(ctx, moduleName(m), 0)
		if errors.Is(err, errNoModule) {
			missing = append(missing, m)
		} else if err != nil {
			return nil, fmt.Errorf("package %s: module %s: %w", name, m, err)
		}
	}
	order := strings.Join(append(k.order, ""), "\n")
	return missing, os.WriteFile(filepath.Join(dest, "modules", "order"), []byte(order), 0o644)
}

var errNoModule = errors.New("no such module")

// kernelPackage collects the files of a package.
type kernelPackage struct {
	dest, work string
	flavour    string            // the suffix of the kernel's file; with Debian, the release
	release    string            // the name of the directory of modules
	files      map[string]string // compressed files in work, by module name
	builtin    map[string]bool   // by module name
	order      []string          // file names in dest/modules
	loaded     []string          // module names
}

// moduleName returns the kernel's own form of a name: - and _ are the same.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// entry extracts one file of the package, if it is needed.
func (k *kernelPackage) entry(h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	base := path.Base(name)
	if _, below, ok := strings.Cut(name, "lib/modules/"); ok && k.release == "" {
		if k.release, _, _ = strings.Cut(below, "/"); !validControlName(k.release) {
			return fmt.Errorf("%q cannot be the release of a kernel", k.release)
		}
	}
	switch {
	case path.Dir(name) == "boot" && (strings.HasPrefix(base, "vmlinuz-") || strings.HasPrefix(base, "vmlinux-")):
		if k.flavour != "" {
			return fmt.Errorf("%s is a second kernel", name)
		}
		_, k.flavour, _ = strings.Cut(base, "-")
		return writeFile(filepath.Join(k.dest, "vmlinuz"), r, maxKernel)
	case path.Dir(name) == "boot" && strings.HasPrefix(base, "config-"):
		return writeFile(filepath.Join(k.dest, "config"), r, maxKernel)
	case base == "modules.builtin":
		b, err := io.ReadAll(io.LimitReader(r, maxModule))
		for f := range strings.FieldsSeq(string(b)) {
			k.builtin[moduleName(strings.TrimSuffix(path.Base(f), ".ko"))] = true
		}
		return err
	}
	stem, _, ok := strings.Cut(base, ".ko")
	if !ok || !strings.Contains(name, "lib/modules/") || !validControlName(base) {
		return nil
	}
	file := filepath.Join(k.work, base)
	k.files[moduleName(stem)] = file
	return writeFile(file, r, maxModule)
}

func writeFile(name string, r io.Reader, limit int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(r, limit+1))
	if err != nil {
		return err
	}
	if n > limit {
		return fmt.Errorf("is larger than %d bytes", limit)
	}
	return f.Close()
}

// load adds a module to the order, after all its dependencies.
func (k *kernelPackage) load(ctx context.Context, name string, depth int) error {
	if k.builtin[name] || slices.Contains(k.loaded, name) {
		return nil
	}
	file, ok := k.files[name]
	if !ok {
		return errNoModule
	}
	if depth > 32 {
		return errors.New("depends on itself")
	}
	plain, err := plainModule(ctx, file)
	if err != nil {
		return err
	}
	needs, err := moduleDepends(plain)
	if err != nil {
		return err
	}
	for _, n := range needs {
		if err := k.load(ctx, n, depth+1); err != nil {
			return fmt.Errorf("needs %s: %w", n, err)
		}
	}
	k.loaded = append(k.loaded, name)
	k.order = append(k.order, name+".ko")
	return os.WriteFile(filepath.Join(k.dest, "modules", name+".ko"), plain, 0o644)
}

// plainModule reads and decompresses the file of a module.
func plainModule(ctx context.Context, file string) ([]byte, error) {
	switch path.Ext(file) {
	case ".xz":
		cmd := exec.CommandContext(ctx, "xz", "--decompress", "--stdout", "--memlimit-decompress=256MiB", file)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return nil, fmt.Errorf("xz: %w", err)
		}
		b, err := io.ReadAll(io.LimitReader(out, maxModule+1))
		if len(b) > maxModule {
			cmd.Process.Kill()
			err = fmt.Errorf("unpacks to more than %d bytes", maxModule)
		}
		if werr := cmd.Wait(); err == nil && werr != nil {
			err = fmt.Errorf("xz: %w", werr)
		}
		return b, err
	case ".gz":
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(z, maxModule+1))
		if len(b) > maxModule {
			err = fmt.Errorf("unpacks to more than %d bytes", maxModule)
		}
		return b, err
	case ".zst":
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		z, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxModule))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return z.DecodeAll(b, nil)
	}
	return os.ReadFile(file)
}

// moduleDepends reads "depends=a,b" from the module's section .modinfo.
func moduleDepends(b []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("has no section .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	var needs []string
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok {
			for n := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' }) {
				needs = append(needs, moduleName(n))
			}
		}
	}
	return needs, nil
}
