package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	cryptossh "golang.org/x/crypto/ssh"

	"meros/runner/layer"
	"meros/runner/ssh"
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

type pushCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       string   `arg:"" help:"Name of the machine."`
	Files         []string `arg:"" name:"src" help:"Files and directories to copy; of several the last one is the directory there (default: mos-shared in the home directory)."`
}

// unpack is what runs in the machine. Files get their names there when they
// are whole: they are unpacked beside the directory's content, and then linked
// into it. What cannot be linked, as another file system is mounted there, is
// copied beside its name. It begins by telling which tar it has.
const unpack = `set -e
if tar --version 2>/dev/null | grep -q GNU; then kind=gnu; else kind=other; fi
` + findBulk + `
echo "$kind" ${c:+bulk}
read -r token
mkdir -p -- "$DEST"
cd -- "$DEST"
t=$(mktemp -d ./.meros-XXXXXX)
trap 'rm -rf -- "$t"' EXIT
trap 'exit 1' HUP INT TERM PIPE
` + bulkIn + `
tar -x -p -o -f - -C "$t" <&3
test -e "$t/.meros-whole" || { echo "the copy was broken off" >&2; exit 1; }
rm -- "$t/.meros-whole"
trap '' HUP INT TERM PIPE
for f in "$t"/* "$t"/.[!.]* "$t"/..?*; do
	if test -e "$f" || test -L "$f"; then
		if cp --help 2>&1 | grep -q remove-destination; then force=--remove-destination; else force=-f; fi
		cp -al "$force" -- "$f" . 2>/dev/null || find "$f" -exec sh -c '` + copyUnlinked + `' sh "$t" {} +
		test ! -e "$t/.meros-failed" || exit 1
	fi
done
`

// copyUnlinked copies those of the files of the directory $1 that are not
// linked into the current one. Not every find tells how it ended.
const copyUnlinked = `
t=$1
shift
for f; do
	to=.${f#"$t"}
	as=${to%/*}/.meros-$$
	if test -d "$f" && test ! -L "$f"; then
		test -d "$to" || mkdir -- "$to" || : >"$t/.meros-failed"
	elif test -L "$f" || test -L "$to" || test ! "$f" -ef "$to"; then
		if test -d "$to" && test ! -L "$to"; then
			echo "$to is a directory" >&2
			: >"$t/.meros-failed"
			continue
		fi
		cp -a -- "$f" "$as" && { test ! -L "$to" || rm -- "$to"; } && mv -f -- "$as" "$to" || : >"$t/.meros-failed"
		rm -f -- "$as"
	fi
done
`

// whole is the last member of the archive: without it the copy was broken off.
const whole = ".meros-whole"

// Run implements the verb.
func (c *pushCmd) Run(e *env) error {
	from, to := split(c.Files)
	p, err := newPush(from)
	if err != nil {
		return usageError{err}
	}
	if err := p.markIn(filepath.Join(e.root, "data", "state")); err != nil {
		return err
	}
	s, err := login(e, c.Constellation, c.Machine)
	if err != nil {
		return err
	}
	defer s.client.Close()
	if err := s.Start("DEST=" + ssh.Quote(to) + "\n" + unpack); err != nil {
		return err
	}
	can := readOffer(s.out)
	port, err := offerBulk(e.ctx, s.group, c.Machine, can["bulk"], s.in)
	if err != nil {
		return err
	}
	count := &copied{ui: e.ui, what: "push " + c.Constellation + "/" + c.Machine, total: p.size, began: time.Now()}
	sent := make(chan error, 1)
	go func() { sent <- p.sendTo(e.ctx, s.in, port, can["gnu"], count) }()
	werr := s.Wait()
	if port != nil {
		port.Close() // a machine that stopped reading takes no more
	}
	err = <-sent
	if werr != nil {
		if e.ctx.Err() != nil {
			return context.Cause(e.ctx)
		}
		return fmt.Errorf("copy into %s/%s:%s: %w: %s", c.Constellation, c.Machine, to, werr, s.complaint())
	}
	if err != nil {
		return err
	}
	count.say()
	return nil
}

// push is what to send: a name in a directory, for each of the sources.
type push struct {
	dirs, names []string
	size        int64  // bytes of regular files
	mark        string // directory that holds the file [whole]
}

func newPush(sources []string) (*push, error) {
	p := new(push)
	seen := make(map[string]string)
	for _, src := range sources {
		abs, err := filepath.Abs(src)
		if err != nil {
			return nil, err
		}
		dir, name := filepath.Split(abs)
		if name == "" {
			return nil, fmt.Errorf("%s: the whole file system cannot be copied", src)
		}
		if other, ok := seen[name]; ok {
			return nil, fmt.Errorf("%s and %s have the same name", other, src)
		}
		seen[name] = src
		err = filepath.WalkDir(abs, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if fi, err := d.Info(); err == nil && fi.Mode().IsRegular() {
				p.size += fi.Size()
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		p.dirs, p.names = append(p.dirs, dir), append(p.names, name)
	}
	return p, nil
}

// markIn keeps the file that marks the end of archives in a directory.
func (p *push) markIn(dir string) error {
	p.mark = dir
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, whole), nil, 0o600))
}

// sendTo sends the archive by the port, or by the session's pipe, and ends
// both.
func (p *push) sendTo(ctx context.Context, in io.WriteCloser, port *bulk, gnu bool, count *copied) error {
	defer in.Close()
	if port == nil {
		return p.send(ctx, in, gnu, count)
	}
	if _, err := io.WriteString(port, port.token); err != nil {
		return err
	}
	if err := p.send(ctx, port, gnu, count); err != nil {
		return errors.Join(err, port.Close())
	}
	return port.end()
}

// send writes the archive: tar(1) knows where files have holes.
func (p *push) send(ctx context.Context, w io.Writer, gnu bool, count *copied) error {
	argv := []string{"--create", "--file=-", "--format=pax", "--numeric-owner"}
	if gnu {
		argv = append(argv, "--sparse")
	}
	for i := range p.dirs {
		argv = append(argv, "--directory="+p.dirs[i], "--add-file="+p.names[i])
	}
	argv = append(argv, "--directory="+p.mark, "--add-file="+whole)
	cmd := exec.CommandContext(ctx, "tar", argv...)
	cmd.Stdout = io.MultiWriter(w, count)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

type pullCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       string   `arg:"" help:"Name of the machine."`
	Files         []string `arg:"" name:"src" help:"Files and directories there, relative to mos-shared in the home directory; of several the last one is the directory here (default: mos-shared)."`
}

// Run implements the verb.
func (c *pullCmd) Run(e *env) error {
	from, to := split(c.Files)
	s, err := login(e, c.Constellation, c.Machine)
	if err != nil {
		return err
	}
	defer s.client.Close()
	line := "set -e\ns=\nif tar --version 2>/dev/null | grep -q GNU; then s=-S; fi\n" + findBulk + "echo ${c:+bulk}\nread -r token\n" + bulkOut + "exec tar -c $s -f -"
	for _, src := range from {
		dir, name := path.Split(path.Clean(src))
		if name == "" {
			name = "."
		}
		if !path.IsAbs(dir) {
			line += ` -C "$HOME"/` + ssh.Quote(path.Join(exchangeDir, dir))
		} else {
			line += " -C " + ssh.Quote(dir)
		}
		line += " " + ssh.Quote("./"+name)
	}
	if err := s.Start(line + " >&3"); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	port, err := offerBulk(e.ctx, s.group, c.Machine, readOffer(s.out)["bulk"], s.in)
	if err != nil {
		return err
	}
	count := &copied{ui: e.ui, what: "pull " + c.Constellation + "/" + c.Machine, began: time.Now()}
	in := newArrival(to, from, func(text string) { e.ui.note("%s", printable(text)) })
	err = s.receiveFrom(e.ctx, in, port, count)
	if err != nil {
		err = fmt.Errorf("copy out of %s/%s: %w", c.Constellation, c.Machine, err)
	}
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	if err != nil {
		return err
	}
	count.say()
	return nil
}

// receiveFrom takes the archive from the port, or from the session's pipe, and
// waits for the end of what sends it.
func (s *session) receiveFrom(ctx context.Context, to *arrival, port *bulk, count *copied) error {
	var from io.Reader = s.out
	var err error
	if port != nil {
		defer port.Close()
		from = bufio.NewReaderSize(port, 256<<10)
	}
	ended := make(chan error, 1)
	go func() {
		werr := s.Wait()
		if port != nil && werr != nil {
			port.Close() // nothing more comes
		}
		ended <- werr
	}()
	if port != nil {
		err = port.expectToken()
	}
	if err == nil {
		err = to.receive(ctx, io.TeeReader(from, count))
	}
	if err != nil {
		s.client.Close() // it may have more to send
	} else {
		go io.Copy(io.Discard, from) // the rest of the last record
	}
	if werr := <-ended; werr != nil && (err == nil || !errors.Is(werr, net.ErrClosed) && s.said.Len() > 0) {
		err = fmt.Errorf("%w: %s", werr, s.complaint())
	}
	return err
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
