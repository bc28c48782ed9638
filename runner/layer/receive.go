package layer

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Receiver is where an archive that a machine made is unpacked. Nothing is
// written outside of dir and of what was asked for whatever the archive says,
// only files, directories and links are made, none that others may write, and
// a file gets its name when it is whole.
type Receiver struct {
	dir   string
	asked map[string]bool // names in dir; nil is any
	note  func(string)

	root *os.Root
	real map[string]bool // directories that were seen to be no links
	dirs []arrived
}

type arrived struct {
	name string
	h    *tar.Header
}

func NewReceiver(dir string, asked []string, note func(string)) *Receiver {
	return &Receiver{dir: dir, asked: namesOf(asked), note: note, real: map[string]bool{".": true}}
}

func (a *Receiver) Receive(ctx context.Context, r io.Reader) (err error) {
	if a.root, err = os.OpenRoot(a.dir); err != nil {
		return err
	}
	defer a.root.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		name, err := a.wanted(h.Name)
		if err != nil {
			return err
		}
		if err := a.member(name, h, tr); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
	for _, d := range a.dirs { // when nothing changes them any more
		if err := errors.Join(a.root.Chmod(d.name, harmless(d.h)|0o700), a.root.Chtimes(d.name, d.h.ModTime, d.h.ModTime)); err != nil {
			return err
		}
	}
	return nil
}

// wanted is what a member's name is in the directory, if it is of something
// that was asked for: a machine could send a .bashrc with a log.
func (a *Receiver) wanted(sent string) (string, error) {
	name := path.Clean(sent)
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("the machine sends %q, which leads out of %s", sent, a.dir)
	}
	if top, _, _ := strings.Cut(name, "/"); a.asked != nil && !a.asked[top] {
		return "", fmt.Errorf("the machine sends %q, which was not asked for (what is asked for as \".\" may hold any name)", sent)
	}
	return name, nil
}

// member makes what the header says.
func (a *Receiver) member(name string, h *tar.Header, r io.Reader) error {
	if err := a.noLinks(path.Dir(name)); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := a.noLinks(name); err != nil {
			return err
		}
		if name != "." {
			a.dirs = append(a.dirs, arrived{name, h})
		}
		return a.root.MkdirAll(name, 0o700)
	case tar.TypeReg, tar.TypeGNUSparse:
		return receiveFile(a.root, name, h, r)
	case tar.TypeSymlink:
		return replace(a.root, name, func(as string) error { return a.root.Symlink(h.Linkname, as) })
	case tar.TypeLink:
		to, err := a.wanted(h.Linkname)
		if err == nil {
			err = a.noLinks(path.Dir(to))
		}
		if err != nil {
			return err
		}
		return replace(a.root, name, func(as string) error { return a.root.Link(to, as) })
	}
	a.note(fmt.Sprintf("%s is no file, directory or link, and is left out", h.Name))
	return nil
}

// noLinks refuses a directory that is reached through a symbolic link, of this
// copy or of one before: it would lead to where nothing was asked for. What is
// a directory stays one, nothing takes its name.
func (a *Receiver) noLinks(dir string) error {
	if a.real[dir] {
		return nil
	}
	if err := a.noLinks(path.Dir(dir)); err != nil {
		return err
	}
	fi, err := a.root.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() == fs.ModeSymlink {
		return fmt.Errorf("%q is a link in %s (remove it, or copy to another directory)", dir, a.dir)
	}
	a.real[dir] = fi.IsDir()
	return nil
}

// harmless is the mode that a file gets here. Whoever runs the machine chose
// the one it has there: nothing of ours is to run as another user for that, or
// to be changed by one.
func harmless(h *tar.Header) fs.FileMode { return h.FileInfo().Mode().Perm() &^ 0o022 }

// replace makes something under another name and gives it its own.
func replace(root *os.Root, name string, create func(as string) error) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	var id [6]byte
	rand.Read(id[:])
	as := path.Join(path.Dir(name), ".meros-"+hex.EncodeToString(id[:]))
	err := create(as)
	if err == nil {
		err = root.Rename(as, name)
	}
	if err != nil {
		root.Remove(as)
	}
	return err
}

func receiveFile(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	return replace(root, name, func(as string) error {
		f, err := root.OpenFile(as, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		w := NewSparseWriter(f)
		_, err = io.Copy(w, r)
		err = errors.Join(err, w.Close(), f.Chmod(harmless(h)), f.Close())
		if err != nil {
			return err
		}
		return root.Chtimes(as, h.ModTime, h.ModTime)
	})
}

// namesOf are the names under which what is asked for arrives, or nil where
// they are the machine's to tell: "." and ".." are sent as what is in them.
func namesOf(asked []string) map[string]bool {
	names := make(map[string]bool)
	for _, src := range asked {
		name := path.Base(path.Clean(src))
		if name == "." || name == ".." || name == "/" {
			return nil
		}
		names[name] = true
	}
	return names
}
