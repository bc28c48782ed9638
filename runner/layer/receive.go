// This file unpacks the archive that a running machine sends of some of its
// files. It trusts nothing in the archive.

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

	"meros/runner/hint"
)

// Receiver unpacks an archive that a machine made into a directory of the host.
// Whatever the archive says, a Receiver writes only in that directory, and only
// below the requested names. It makes files, directories and links, and none
// that others may write. A file gets its name once it is complete.
type Receiver struct {
	dir   string
	asked map[string]bool // names in dir; nil allows any
	note  func(string)

	root *os.Root
	real map[string]bool // directories that are known not to be links
	dirs []receivedDir
}

// receivedDir is a directory that gets its mode and time at the end.
type receivedDir struct {
	name string
	h    *tar.Header
}

// NewReceiver returns a receiver of the requested files, which are paths on the
// machine, into dir. It calls note for each member that it leaves out.
func NewReceiver(dir string, asked []string, note func(string)) *Receiver {
	return &Receiver{dir: dir, asked: namesOf(asked), note: note, real: map[string]bool{".": true}}
}

// Receive unpacks the tar archive in r. It fails if the archive ends early or
// names a file that was not requested; the files unpacked until then stay.
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
	for _, d := range a.dirs { // at the end, for each new entry changes the time
		if err := errors.Join(a.root.Chmod(d.name, harmless(d.h)|0o700), a.root.Chtimes(d.name, d.h.ModTime, d.h.ModTime)); err != nil {
			return err
		}
	}
	return nil
}

// wanted returns a member's path in the directory. It refuses a member that was
// not requested: a machine could send a .bashrc along with a log.
func (a *Receiver) wanted(sent string) (string, error) {
	name := path.Clean(sent)
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("the machine sent %q, which is outside of %s", sent, a.dir)
	}
	if top, _, _ := strings.Cut(name, "/"); a.asked != nil && !a.asked[top] {
		return "", hint.Add(fmt.Errorf("the machine sent %q, which was not requested", sent), "a request for `.` accepts any name")
	}
	return name, nil
}

// member makes the file, directory or link of one header.
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
			a.dirs = append(a.dirs, receivedDir{name, h})
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
	a.note(fmt.Sprintf("%s: left out, not a file, directory or link", h.Name))
	return nil
}

// noLinks refuses a directory that is reached through a symbolic link, whether
// this copy or an earlier one made it: the link may lead anywhere. A directory
// that was checked stays one, because nothing replaces a directory.
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
		return hint.Add(fmt.Errorf("%q is a symbolic link in %s", dir, a.dir), "remove the link, or copy to another directory")
	}
	a.real[dir] = fi.IsDir()
	return nil
}

// harmless returns the mode that a file gets on the host. The machine's owner
// chose the mode in the archive. On the host no file may run as another user
// because of it, and no other user may change one.
func harmless(h *tar.Header) fs.FileMode { return h.FileInfo().Mode().Perm() &^ 0o022 }

// replace has create make a file under a temporary name, then renames it to name.
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

// receiveFile writes a regular file.
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

// namesOf returns the first path elements of the requested files in the archive.
// It returns nil if the machine decides them: of "." and ".." it sends the
// content.
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
