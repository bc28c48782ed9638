// This file applies a layer to a tree in place.

package layer

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// Apply applies the layer at the beginning of r to the tree dir, in place. It
// really removes the files that the layer removes. The layer must come from
// [Capture] or [Compose]. Apply reads r up to the end of the layer, no further.
func Apply(ctx context.Context, r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	a := &applier{unpacker{ctx: ctx, root: root, dir: dir}}
	return a.read(tar.NewReader(r), a.entry)
}

// applier is an [unpacker] for a tree that is not empty.
type applier struct{ unpacker }

func (a *applier) entry(h *tar.Header, r io.Reader) error {
	name := strings.TrimSuffix(h.Name, "/")
	dir, base := path.Split(name)
	switch rest, whiteout := strings.CutPrefix(base, whiteoutPrefix); {
	case base == opaqueMarker:
		return a.empty(path.Clean("./" + dir))
	case whiteout:
		return a.root.RemoveAll(path.Join(dir, rest))
	}
	fi, err := a.root.Lstat(name)
	if err != nil {
		return a.unpacker.entry(h, r)
	}
	if fi.IsDir() && h.Typeflag == tar.TypeDir {
		parent, base, err := a.openParent(name)
		if err != nil {
			return err
		}
		a.dirs = append(a.dirs, dirTime{name, h.ModTime})
		if err := removeXattrs(fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), base), preservedXattr); err != nil {
			return err
		}
		return a.attributes(int(parent.Fd()), base, h)
	}
	if err := a.root.RemoveAll(name); err != nil {
		return err
	}
	return a.unpacker.entry(h, r)
}

// empty removes the content of a directory.
func (a *applier) empty(dir string) error {
	d, err := a.root.Open(dir)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := a.root.RemoveAll(path.Join(dir, n)); err != nil {
			return err
		}
	}
	return nil
}
