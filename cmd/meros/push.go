// This file is the verb push: it copies files into a machine.

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
	Files         []string `arg:"" name:"src" help:"Files and directories to copy. The last of several is the directory on the machine (default: mos-shared in the home directory)."`
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
	port, err := openBulk(e.ctx, s.group, c.Machine, can["bulk"], s.in)
	if err != nil {
		return err
	}
	count := &copied{ui: e.ui, what: "push " + c.Constellation + "/" + c.Machine, total: p.size, began: time.Now()}
	sent := make(chan error, 1)
	go func() { sent <- p.sendTo(e.ctx, s.in, port, can["gnu"], count) }()
	werr := s.Wait()
	if port != nil {
		port.Close() // the machine no longer reads
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

// unpack is the script that runs in the machine. It prints which tar the machine has, and
// unpacks in a directory inside the destination. Then it links the files into place, so
// that each one appears complete. A file that cannot be linked, because another file system
// is mounted there, is copied beside its name first.
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

// copyUnlinked copies the files of the directory $1 that are not linked into the current
// one. It reports failures through a file, because not every find passes on a status.
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

// whole is the last member of the archive. Without it the copy is incomplete.
const whole = ".meros-whole"

// push lists the files to send.
type push struct {
	dirs, names []string
	size        int64  // bytes of regular files
	mark        string // directory that holds the file [whole]
}

// markIn makes the file [whole] in a directory.
func (p *push) markIn(dir string) error {
	p.mark = dir
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, whole), nil, 0o600))
}

// sendTo sends the archive through the port, or through the session if port is nil, and
// closes the way.
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

// send writes the archive with tar(1), which finds the holes of sparse files.
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

// newPush finds the sources and adds up their sizes.
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
			return nil, fmt.Errorf("%s: cannot copy the whole file system", src)
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
