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
)

// maxFiles bounds the files of a source; the kernel has 90,000.
const maxFiles = 1_000_000

// Tree is a directory that a source is written into. Of what it is given it
// keeps names, contents, links and whether a file can be run: what a commit
// has, so that a source gives the same tree wherever it is from.
type Tree struct {
	root  *os.Root
	made  map[string]bool
	files int
}

// NewTree makes the directory dir.
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

// Close ends the writing.
func (t *Tree) Close() error { return t.root.Close() }

// enter checks a name and makes the directories above it.
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

// FromTar writes what a tar archive holds. The one directory that all of it is
// in, as in every archive of a kernel, is left out.
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
			err = nil // made for what is in it: git knows no empty ones
		case tar.TypeReg:
			err = t.file(name, h.Mode&0o100 != 0, tr)
		case tar.TypeSymlink:
			err = t.symlink(name, h.Linkname)
		default:
			err = fmt.Errorf("has the type %q, which no source of a kernel has", h.Typeflag)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// FromDir writes what a directory of the host holds but for the paths, from
// the top, that skip tells.
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
		return fmt.Errorf("%s: a kernel's source has no sockets, pipes and devices", name)
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

// FromGit writes what a commit holds, read object by object: no attribute, no
// filter and no version of git changes a byte.
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
			return fmt.Errorf("git ls-tree says %q", line)
		}
		if f[1] != "blob" {
			continue // a submodule: a kernel has none
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

// blob reads one answer of git cat-file --batch.
func (t *Tree) blob(r *bufio.Reader, mode, name string) error {
	header, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	f := strings.Fields(header)
	if len(f) != 3 || f[1] != "blob" {
		return fmt.Errorf("git cat-file says %q", strings.TrimSpace(header))
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
	_, err = r.Discard(1) // the newline after each
	return err
}

// CheckSource makes sure that the tree is a kernel's.
func CheckSource(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range []string{"Kbuild", "Kconfig", "Makefile", "arch", "init/main.c"} {
		if _, err := root.Stat(name); err != nil {
			return fmt.Errorf("this is no source of a Linux kernel: it has no %s", name)
		}
	}
	return nil
}

// Decompress reads a file that is compressed as name says: "none", "xz",
// "gz", "zst" or "bz2", with the program for it.
func Decompress(ctx context.Context, in io.Reader, compression string, read func(io.Reader) error) error {
	program := map[string][]string{"xz": {"xz", "-dc", "-T0"}, "gz": {"gzip", "-dc"}, "zst": {"zstd", "-dc"}, "bz2": {"bzip2", "-dc"}}[compression]
	if compression == "none" {
		return read(in)
	}
	if program == nil {
		return fmt.Errorf("the compression %q is not known", compression)
	}
	cmd := exec.CommandContext(ctx, program[0], program[1:]...)
	cmd.Stdin = in
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
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
	io.Copy(io.Discard, out) // to its end, so that its sums are checked
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", program[0], err, strings.TrimSpace(stderr.String()))
	}
	return nil
}
