package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"meros/runner/ssh"
)

type pushCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       string   `arg:"" help:"Name of the machine."`
	Files         []string `arg:"" name:"src" help:"Files and directories to copy; of several the last one is the directory there (default: mos-shared in the home directory)."`
}

// Run implements the verb.
func (c *pushCmd) Run(e *env) error {
	from, to := split(c.Files)
	p, err := newPush(from)
	if err != nil {
		return usageError{err}
	}
	if err := p.markIn(e.stateDir()); err != nil {
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

// push is what to send: a name in a directory, for each of the sources.
type push struct {
	dirs, names []string
	size        int64  // bytes of regular files
	mark        string // directory that holds the file [whole]
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
