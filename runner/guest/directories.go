// This file describes the directories that a machine's own layer passes through, so
// that the layer does not change them.

package guest

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Describe returns the header of a path of a root file system, without its content.
// The error is [fs.ErrNotExist] if the path does not exist.
type Describe func(path string) (*tar.Header, error)

// parents lists the directories that a machine's own layer may pass through.
var parents = []string{"etc", "etc/network", "etc/systemd", "etc/systemd/network", "etc/systemd/system", "etc/systemd/system/multi-user.target.wants", "home", "lib"}

// WriteDirectories writes an archive of the directories that [WriteLayer] may pass
// through, homes included. If a link is in place of one, the archive also holds the
// target. No time in the archive is later than t.
func WriteDirectories(w io.Writer, base Describe, homes []string, t time.Time) error {
	tw, written := tar.NewWriter(w), make(map[string]bool)
	write := func(name string) error {
		if written[name] {
			return nil
		}
		written[name] = true
		h, err := base(name)
		if err != nil || h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeSymlink {
			return nil // a layer replaces it
		}
		return tw.WriteHeader(plain(h, name, t))
	}
	for _, name := range slices.Concat(parents, homes) {
		passed, err := base.passed(name + "/x")
		if err != nil {
			continue // no file can be written there
		}
		for _, dir := range passed {
			if err := write(dir); err != nil {
				return err
			}
		}
	}
	return tw.Close()
}

// ReadDirectories reads an archive of [WriteDirectories].
func ReadDirectories(r io.Reader) (Describe, error) {
	known := make(map[string]*tar.Header)
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read directories: %w", err)
		}
		known[strings.TrimSuffix(h.Name, "/")] = h
	}
	return func(name string) (*tar.Header, error) {
		if h := known[name]; h != nil {
			return h, nil
		}
		return nil, fs.ErrNotExist
	}, nil
}

// plain returns a header in the form of a layer.
func plain(h *tar.Header, name string, t time.Time) *tar.Header {
	p := &tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid, ModTime: h.ModTime.Truncate(time.Second), PAXRecords: h.PAXRecords, Format: tar.FormatPAX}
	if p.Typeflag == tar.TypeDir {
		p.Name += "/"
	}
	if p.ModTime.After(t) {
		p.ModTime = t
	}
	return p
}

// maxLinks bounds the links that a path may lead through, path_resolution(7).
const maxLinks = 40

// follow returns the path without links in its directories. A directory in place of
// a link would hide the link's target.
func (base Describe) follow(name string) (string, error) {
	if base == nil {
		return name, nil
	}
	passed, err := base.passed(name)
	if err != nil || len(passed) == 0 {
		return name, err
	}
	return path.Join(passed[len(passed)-1], path.Base(name)), nil
}

// passed returns the links and directories that lead to a path. The last one
// contains it.
func (base Describe) passed(name string) (all []string, err error) {
	done, rest, links := "", strings.Split(name, "/"), 0
	for len(rest) > 1 {
		next := path.Join("/", done, rest[0])[1:] // ".." ends at the root
		rest, all = rest[1:], append(all, next)
		h, err := base(next)
		if err != nil || h.Typeflag != tar.TypeSymlink {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("/%s: too many links", name)
		}
		if path.IsAbs(h.Linkname) {
			done = ""
		}
		rest = append(strings.Split(h.Linkname, "/"), rest...)
	}
	return append(all, done), nil
}

// directory returns the header in base of a directory that a layer only passes
// through, or nil.
func (base Describe) directory(f File, t time.Time) *tar.Header {
	if base == nil || !f.parent {
		return nil
	}
	h, err := base(f.Path)
	if err != nil || h.Typeflag != tar.TypeDir {
		return nil
	}
	return plain(h, f.Path, t)
}
