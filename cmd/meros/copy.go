package main

import (
	"archive/tar"
	"bufio"
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
	"time"

	cryptossh "golang.org/x/crypto/ssh"

	"meros/runner/layer"
	"meros/runner/vm"
)

// exchangeDir is where copies go if nothing else is said: in the home directory of
// who logs in, and here.
const exchangeDir = "mos-shared"

// copied counts what was copied.
type copied struct {
	ui    *ui
	what  string
	total int64 // bytes, 0 if that is not known
	done  int64
	began time.Time
}

// Write implements io.Writer: it only looks.
func (c *copied) Write(b []byte) (int, error) {
	c.done += int64(len(b))
	of := ""
	if c.total > 0 {
		of = " of " + bytesText(c.total)
	}
	c.ui.transient(fmt.Sprintf("%s: %s%s, %s/s", c.what, bytesText(c.done), of, bytesText(c.rate())))
	return len(b), nil
}

func (c *copied) rate() int64 {
	return int64(float64(c.done) / max(time.Since(c.began).Seconds(), 0.001))
}

func (c *copied) say() {
	c.ui.note("%s: %s in %s, %s/s", c.what, bytesText(c.done), seconds(time.Since(c.began)), bytesText(c.rate()))
}

// split takes SRC... [DEST]: of several words the last one is where to.
func split(words []string) (from []string, to string) {
	if len(words) == 1 {
		return words, exchangeDir
	}
	return words[:len(words)-1], words[len(words)-1]
}

// session is one with a machine, with pipes to and from what it runs.
type session struct {
	*cryptossh.Session
	group  *vm.Group
	client *cryptossh.Client
	in     io.WriteCloser
	out    *bufio.Reader
	said   strings.Builder // standard error
}

// complaint is what the machine's side said of its failure, as one line.
func (s *session) complaint() string {
	return printable(strings.Join(strings.FieldsFunc(s.said.String(), func(r rune) bool { return r == '\n' }), "; "))
}

func login(e *env, constellation, machine string) (*session, error) {
	g, err := groupOf(e, constellation, machine)
	if err != nil {
		return nil, err
	}
	client, err := g.Login(e.ctx, machine)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(e.ctx, func() { client.Close() })
	s := &session{group: g, client: client}
	if s.Session, err = client.NewSession(); err == nil {
		s.Stderr = &s.said
		s.in, err = s.StdinPipe()
	}
	if err == nil {
		var out io.Reader
		out, err = s.StdoutPipe()
		s.out = bufio.NewReaderSize(out, 64<<10)
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return s, nil
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

// arrival is where an archive that a machine made is unpacked. Nothing is
// written outside of dir and of what was asked for whatever the archive says,
// only files, directories and links are made, none that others may write, and
// a file gets its name when it is whole.
type arrival struct {
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

func newArrival(dir string, asked []string, note func(string)) *arrival {
	return &arrival{dir: dir, asked: namesOf(asked), note: note, real: map[string]bool{".": true}}
}

func (a *arrival) receive(ctx context.Context, r io.Reader) (err error) {
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
func (a *arrival) wanted(sent string) (string, error) {
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
func (a *arrival) member(name string, h *tar.Header, r io.Reader) error {
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
func (a *arrival) noLinks(dir string) error {
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
		w := layer.NewSparseWriter(f)
		_, err = io.Copy(w, r)
		err = errors.Join(err, w.Close(), f.Chmod(harmless(h)), f.Close())
		if err != nil {
			return err
		}
		return root.Chtimes(as, h.ModTime, h.ModTime)
	})
}
