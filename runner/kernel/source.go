// This file imports a kernel's source from an archive, a directory or a git commit,
// so that all three give the same tree.

package kernel

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// maxFiles bounds the number of files of a source. The kernel has 90,000.
const maxFiles = 1_000_000

// Tree is a directory that a source is written into. It preserves names, contents,
// links and executable bits, and nothing else. That is all that a git commit
// stores, so that a source gives the same tree from everywhere.
type Tree struct {
	root  *os.Root
	made  map[string]bool
	files int
}

// NewTree creates the directory dir, which must not exist.
func NewTree(dir string) (*Tree, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Tree{root: root, made: map[string]bool{".": true}}, nil
}

// Close closes the directory.
func (t *Tree) Close() error { return t.root.Close() }

// enter checks a name and creates its parent directories.
func (t *Tree) enter(name string) error {
	if !filepath.IsLocal(name) || path.Clean(name) != name || name == "." {
		return fmt.Errorf("%q is not a path within the source", name)
	}
	if t.files++; t.files > maxFiles {
		return fmt.Errorf("more than %d files", maxFiles)
	}
	return t.mkdir(path.Dir(name))
}

func (t *Tree) mkdir(dir string) error {
	if t.made[dir] {
		return nil
	}
	if err := t.mkdir(path.Dir(dir)); err != nil {
		return err
	}
	if err := t.root.Mkdir(dir, 0o755); err != nil {
		return err
	}
	t.made[dir] = true
	return nil
}

func (t *Tree) file(name string, executable bool, r io.Reader) error {
	if err := t.enter(name); err != nil {
		return err
	}
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	if executable {
		if err := f.Chmod(0o755); err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}

func (t *Tree) symlink(name, to string) error {
	if err := t.enter(name); err != nil {
		return err
	}
	return t.root.Symlink(to, name)
}

// FromTar writes the contents of a tar archive. It strips the one top directory that
// every archive of a kernel has.
func (t *Tree) FromTar(ctx context.Context, r io.Reader) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		whole := path.Clean(h.Name)
		if h.Typeflag != tar.TypeXGlobalHeader && !filepath.IsLocal(whole) {
			return fmt.Errorf("%q is not a path within the source", h.Name)
		}
		_, name, ok := strings.Cut(whole, "/")
		if !ok {
			continue // the directory itself, or a header of git
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = nil // created with its files: git has no empty directories
		case tar.TypeReg:
			err = t.file(name, h.Mode&0o100 != 0, tr)
		case tar.TypeSymlink:
			err = t.symlink(name, h.Linkname)
		default:
			err = fmt.Errorf("unsupported type %q", h.Typeflag)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// FromDir writes the contents of a directory of the host, except for the relative
// paths for which skip returns true.
func (t *Tree) FromDir(ctx context.Context, dir string, skip func(name string) bool) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || file == dir {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if skip(name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		switch d.Type() {
		case fs.ModeDir:
			return nil
		case fs.ModeSymlink:
			to, err := os.Readlink(file)
			if err != nil {
				return err
			}
			return t.symlink(name, to)
		case 0:
			return t.copy(name, file)
		}
		return fmt.Errorf("%s: sockets, pipes and devices are not supported", name)
	})
}

func (t *Tree) copy(name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	return t.file(name, fi.Mode()&0o100 != 0, f)
}

// RunGit runs git in a repository.
type RunGit func(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error

// FromGit writes the contents of a commit. It reads object by object, so that no
// attribute, filter or version of git changes a byte.
func (t *Tree) FromGit(ctx context.Context, git RunGit, commit string) error {
	var list bytes.Buffer
	if err := git(ctx, nil, &list, "git", "ls-tree", "-r", "-z", "--full-tree", commit); err != nil {
		return err
	}
	type entry struct{ mode, name string }
	var entries []entry
	var ask bytes.Buffer
	for line := range strings.SplitSeq(strings.TrimSuffix(list.String(), "\x00"), "\x00") {
		meta, name, ok := strings.Cut(line, "\t")
		f := strings.Fields(meta)
		if !ok || len(f) != 3 {
			return fmt.Errorf("git ls-tree printed %q", line)
		}
		if f[1] != "blob" {
			continue // a submodule, which a kernel does not have
		}
		entries = append(entries, entry{f[0], name})
		ask.WriteString(f[2] + "\n")
	}
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := git(ctx, &ask, pw, "git", "cat-file", "--batch")
		pw.CloseWithError(err)
		done <- err
	}()
	err := func() error {
		r := bufio.NewReaderSize(pr, 1<<20)
		for _, e := range entries {
			if err := t.blob(r, e.mode, e.name); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
		}
		return nil
	}()
	pr.CloseWithError(errors.New("enough"))
	if rerr := <-done; err == nil {
		err = rerr
	}
	return err
}

// blob reads one object from git cat-file --batch.
func (t *Tree) blob(r *bufio.Reader, mode, name string) error {
	header, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	f := strings.Fields(header)
	if len(f) != 3 || f[1] != "blob" {
		return fmt.Errorf("git cat-file printed %q", strings.TrimSpace(header))
	}
	size, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		return err
	}
	content := io.LimitReader(r, size)
	switch mode {
	case "120000":
		to, rerr := io.ReadAll(content)
		if rerr != nil {
			return rerr
		}
		err = t.symlink(name, string(to))
	default:
		err = t.file(name, mode == "100755", content)
	}
	if err != nil {
		return err
	}
	_, err = r.Discard(1) // the newline after each object
	return err
}

// CheckSource returns an error if the tree is not the source of a Linux kernel.
func CheckSource(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range []string{"Kbuild", "Kconfig", "Makefile", "arch", "init/main.c"} {
		if _, err := root.Stat(name); err != nil {
			return fmt.Errorf("not the source of a Linux kernel: it has no %s", name)
		}
	}
	return nil
}

// Decompress calls read with the decompressed input. compression is "none", "xz",
// "gz", "zst" or "bz2"; all but "none" need their program.
func Decompress(ctx context.Context, in io.Reader, compression string, read func(io.Reader) error) error {
	program := map[string][]string{"xz": {"xz", "-dc", "-T0"}, "gz": {"gzip", "-dc"}, "zst": {"zstd", "-dc"}, "bz2": {"bzip2", "-dc"}}[compression]
	if compression == "none" {
		return read(in)
	}
	if program == nil {
		return fmt.Errorf("unknown compression %q", compression)
	}
	cmd := exec.CommandContext(ctx, program[0], program[1:]...)
	cmd.Stdin = in
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if errors.Is(err, exec.ErrNotFound) {
		return hint.Add(fmt.Errorf("%s: %w", program[0], err), "install %s", program[0])
	}
	if err != nil {
		return fmt.Errorf("%s: %w", program[0], err)
	}
	err = read(out)
	if err != nil {
		cmd.Process.Signal(unix.SIGKILL)
		cmd.Wait()
		if s := strings.TrimSpace(stderr.String()); s != "" {
			return fmt.Errorf("%w (%s)", err, s)
		}
		return err
	}
	io.Copy(io.Discard, out) // to its end, so that the program checks its sums
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", program[0], err, strings.TrimSpace(stderr.String()))
	}
	return nil
}
