// This file tests the errors about too little free space.

package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/runner/hint"
)

// If a layer does not fit into a foreign image, the error says how much is missing and
// which size of the disk is enough.
func TestNoSpaceNamesASufficientSize(t *testing.T) {
	need(t, "mke2fs", "debugfs", "e2fsck", "resize2fs", "qemu-img")
	tree, file := t.TempDir(), filepath.Join(t.TempDir(), "disk.raw")
	check(t, os.MkdirAll(filepath.Join(tree, "etc"), 0o755))
	check(t, os.WriteFile(filepath.Join(tree, "etc/passwd"), nil, 0o644))
	output(t, "mke2fs", "-q", "-t", "ext4", "-b", "1024", "-N", "256", "-J", "size=1", "-d", tree, file, "20M")
	many, large := t.TempDir(), t.TempDir()
	for i := range 400 {
		check(t, os.WriteFile(filepath.Join(many, fmt.Sprint(i)), nil, 0o644))
	}
	check(t, os.WriteFile(filepath.Join(large, "large"), bytes.Repeat([]byte("x"), 40*mib), 0o644))
	for layer, want := range map[string]string{many: "400 inodes are needed, one for each file, and 2", large: "about 41 MiB are needed, and 18 MiB are free"} {
		err := used(t, file, 0, tree, layer)
		if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), want) {
			t.Fatalf("%v, want %s", err, want)
		}
		var enough int64
		if _, err := fmt.Sscanf(hint.Of(err), "`disk_size: %dM", &enough); err != nil {
			t.Fatalf("%s: %v", hint.Of(err), err)
		}
		if enough > 80 {
			t.Errorf("%d MiB are more than enough", enough)
		}
		if err := used(t, file, enough*mib, tree, layer); err != nil {
			t.Errorf("with disk_size: %dM: %v", enough, err)
		}
	}
}

// used grows a raw file system to size bytes, 0 for no change, and adds a layer.
func used(t *testing.T, file string, size int64, tree, layer string) error {
	t.Helper()
	d := foreignDisk(t, file, size)
	l, err := d.Root(t.Context())
	check(t, err)
	_, err = d.GrowExt(t.Context(), l)
	check(t, err)
	base, err := os.Create(filepath.Join(t.TempDir(), "base.qcow2"))
	check(t, err)
	defer base.Close()
	check(t, d.Write(base))
	out, err := os.Create(filepath.Join(t.TempDir(), "delta.qcow2"))
	check(t, err)
	defer out.Close()
	o := options(t)
	o.Patch, o.Offset = true, l.Offset
	return Delta(t.Context(), out, base.Name(), "base.qcow2", tree, []string{layer}, o)
}

// A directory with very many entries is reported before the slow work on it begins.
func TestLargeDirectoriesAreNoted(t *testing.T) {
	var said bytes.Buffer
	o := Options{Log: &said}
	o.noteLargeDirectories("mke2fs", map[string]int{"/few": largeDirectory - 1, "/many": largeDirectory, "": 2 * largeDirectory})
	if got := said.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "40000 entries in /: this takes long") || !strings.Contains(got, "20000 entries in /many: ") {
		t.Error(got)
	}
}
