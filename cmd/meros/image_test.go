// This file reads the files of delivered images with debugfs.

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/bench/lab"
)

// rawImage is a raw copy of a machine's disk, read with debugfs.
type rawImage struct{ file string }

// openImage checks a delivered image and converts it for reading.
func openImage(t *testing.T, p *lab.Project, name string) *rawImage {
	t.Helper()
	lab.Need(t, "qemu-img", "debugfs", "e2fsck")
	raw := filepath.Join(t.TempDir(), "raw")
	disk := p.Path("data/disks/" + name + ".qcow2")
	for _, args := range [][]string{{"qemu-img", "check", "-q", disk}, {"qemu-img", "convert", "-O", "raw", disk, raw}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	if out, err := exec.Command("e2fsck", "-fn", raw+"?offset=1048576").CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	return &rawImage{raw}
}

// debugfs runs one request and returns its output. The caller quotes file names.
func (r *rawImage) debugfs(t *testing.T, request string) string {
	t.Helper()
	cmd := exec.Command("debugfs", "-R", request, r.file+"?offset=1048576")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("debugfs %s: %v\n%s", request, err, errs.String())
	}
	return out.String() + errs.String()
}

func (r *rawImage) read(t *testing.T, name string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "file")
	r.debugfs(t, `dump "`+name+`" `+to)
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (r *rawImage) stat(t *testing.T, name string) string {
	t.Helper()
	return r.debugfs(t, `stat "`+name+`"`)
}

func (r *rawImage) exists(t *testing.T, name string) bool {
	t.Helper()
	return strings.Contains(r.stat(t, name), "Inode:")
}
