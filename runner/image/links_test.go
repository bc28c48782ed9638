// This file tests differences in unusual places: below links, across clusters.

package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"meros/bench/lab"
)

// A layer's directory replaces a symbolic link of the base. The link's target stays
// the same.
func TestDeltaReplacesLinks(t *testing.T) {
	need(t, "mke2fs", "debugfs", "e2fsck", "qemu-img")
	lab.NeedRoot(t)
	tree, layer := t.TempDir(), t.TempDir()
	write := func(file, text string) {
		t.Helper()
		check(t, errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)))
	}
	for _, name := range []string{"same", "other"} {
		write(filepath.Join(tree, "doc/bar", name), "bar's")
	}
	host := t.TempDir()
	write(filepath.Join(host, "same"), "host's")
	check(t, errors.Join(os.Symlink("bar", filepath.Join(tree, "doc/foo")), os.Symlink(host, filepath.Join(tree, "doc/far"))))
	write(filepath.Join(layer, "doc/foo/same"), "bar's")
	write(filepath.Join(layer, "doc/foo/other"), "foo's")
	write(filepath.Join(layer, "doc/far/same"), "host's")
	check(t, unix.Mknod(filepath.Join(layer, "doc/far/other"), unix.S_IFCHR, 0))
	base := makeBase(t, tree)
	delta, err := makeDelta(t, base, tree, layer)
	check(t, err)
	out, err := os.Create(filepath.Join(t.TempDir(), "flat.qcow2"))
	check(t, err)
	check(t, Flatten(t.Context(), out, []string{delta, base}))
	raw := toRaw(t, out.Name())
	for file, want := range map[string]string{"bar/same": "bar's", "bar/other": "bar's", "foo/same": "bar's", "foo/other": "foo's", "far/same": "host's"} {
		if got := debugfsCat(t, raw, "cat /doc/"+file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
}

// debugfs would leak the block of a removed file's attributes.
func TestDeltaLosesNoBlock(t *testing.T) {
	need(t, "mke2fs")
	lab.NeedRoot(t)
	tree, layer := t.TempDir(), t.TempDir()
	file := filepath.Join(tree, "big")
	check(t, errors.Join(os.WriteFile(file, nil, 0o644), unix.Setxattr(file, "user.big", []byte(strings.Repeat("b", 2000)), 0), unix.Mknod(filepath.Join(layer, "big"), unix.S_IFCHR, 0)))
	if _, err := makeDelta(t, makeBase(t, tree), tree, layer); !errors.Is(err, ErrRepack) || !strings.Contains(err.Error(), "/big had extended attributes") {
		t.Errorf("%v", err)
	}
}

// A partition may begin at an offset where its superblock crosses two clusters.
func TestSuperblockInTwoClusters(t *testing.T) {
	need(t, "mke2fs")
	const offset = 125 * 512
	raw := filepath.Join(t.TempDir(), "raw")
	output(t, "truncate", "-s", "16M", raw)
	output(t, "mke2fs", "-q", "-t", "ext4", "-E", "offset=64000", raw, "15M")
	in, err := os.Open(raw)
	check(t, err)
	defer in.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "image.qcow2"))
	check(t, err)
	defer out.Close()
	check(t, FromRaw(out, in))
	q, err := openQcow2(out.Name())
	check(t, err)
	defer q.Close()
	if r, err := freeSpaceIn(q, offset); err != nil || r.blocks*r.block != 15*mib {
		t.Errorf("%+v, %v", r, err)
	}
}
