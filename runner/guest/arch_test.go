// This file tests how the architecture of a system is found.

package guest

import (
	"os"
	"path/filepath"
	"testing"

	"meros/runner/arch"
)

// A program of this host has its architecture. Links, scripts and truncated
// programs have none.
func TestArch(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	for _, dir := range []string{"usr/bin", "bin"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if of, program, err := Arch(tree); of != "" || program != "" || err != nil {
		t.Errorf("an empty tree: %q by %q, %v", of, program, err)
	}
	for name, text := range map[string]string{"usr/bin/bash": "#!/bin/sh\n", "bin/bash": "\x7fELF\x02\x01"} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(self, filepath.Join(tree, "usr/bin/dash")); err != nil {
		t.Fatal(err)
	}
	if of, program, err := Arch(tree); of != "" || err != nil {
		t.Errorf("a tree without a program: %q by %q, %v", of, program, err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "bin/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	if of, program, err := Arch(tree); of != arch.Host() || program != "bin/busybox" || err != nil {
		t.Errorf("a program of this host: %q by %q, %v", of, program, err)
	}
	s390x := "\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x16"
	if err := os.WriteFile(filepath.Join(tree, "bin/dash"), []byte(s390x), 0o755); err != nil {
		t.Fatal(err)
	}
	if of, _, err := Arch(tree); of != "s390x" || err != nil {
		t.Errorf("a big-endian program: %q, %v", of, err)
	}
}
