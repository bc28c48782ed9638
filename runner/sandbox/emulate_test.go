// This file tests the rules for foreign programs.

package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"meros/runner/arch"
)

// Rules equal those of qemu-binfmt-conf.sh for the architecture.
func TestRule(t *testing.T) {
	for name, want := range map[string]string{
		"aarch64": `:n:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/q:FPC`,
		"s390x":   `:n:M::\x7f\x45\x4c\x46\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff:/q:FPC`,
	} {
		a, err := arch.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := rule(a.ELF, "n", "/q"); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// A host's rule is only accepted if it starts the same interpreter in every root.
func TestHostRule(t *testing.T) {
	bin := t.TempDir()
	qemu := filepath.Join(bin, "qemu-aarch64-static")
	if err := os.WriteFile(qemu, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(qemu, filepath.Join(bin, "aarch64-binfmt-P")); err != nil {
		t.Fatal(err)
	}
	rule := func(state, interpreter, flags, machine string) string {
		return fmt.Sprintf("%s\ninterpreter %s\nflags: %s\noffset 0\nmagic 7f454c4602010100000000000000000002%s\nmask ffffffffffffff00fffffffffffffffffeffffff\n", state, filepath.Join(bin, interpreter), flags, machine)
	}
	a, err := arch.Find("aarch64")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		text string
		want bool
	}{
		"good":                {rule("enabled", "aarch64-binfmt-P", "POCF", "00b700"), true},
		"disabled":            {rule("disabled", "aarch64-binfmt-P", "POCF", "00b700"), false},
		"not in other roots":  {rule("enabled", "aarch64-binfmt-P", "POC", "00b700"), false},
		"another interpreter": {rule("enabled", "other", "POCF", "00b700"), false},
		"another machine":     {rule("enabled", "aarch64-binfmt-P", "POCF", "00f300"), false},
		"status":              {"enabled\n", false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "x"), []byte(test.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := hostRule(dir, a.ELF, qemu); got != test.want {
			t.Errorf("%s: %t, want %t", name, got, test.want)
		}
	}
}
