// This file tests that programs of another architecture run in a sandbox.

package runner_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"meros/bench/lab"
	"meros/runner"
	"meros/runner/hint"
)

// foreign is an architecture that differs from this host's.
const foreign = "aarch64"

// Programs of another architecture run like native ones. They run by name, as the
// interpreter of a script, as another user, and with the rights of their file. They
// run in several sandboxes at once.
func TestForeign(t *testing.T) {
	lab.Long(t)
	lab.NeedRoot(t)
	if _, err := runner.Emulator(foreign); err != nil {
		lab.Skip(t, "%v", err)
	}
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-xf", lab.AlpineRootFS(t, foreign), "-C", root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script := "#!/bin/sh\nuname -m\nid -u\nfor i in 1 2 3; do cat /proc/self/comm; done | sort -u\nsu nobody -s /bin/sh -c 'echo I am $(id -un)'\n/bin/busybox sh -c 'exit 7'\necho $?\n"
	if err := os.WriteFile(filepath.Join(root, "script"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := runner.Spec{Argv: []string{"/script"}, Root: root, Env: []string{"PATH=/usr/bin:/bin"}, Foreign: foreign}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			out, err := run(t, context.Background(), spec, nil)
			if want := "aarch64\n0\ncat\nI am nobody\n7\n"; err != nil || out != want {
				t.Errorf("%v: %q, want %q", err, out, want)
			}
		})
	}
	all.Wait()
	if out, err := run(t, context.Background(), runner.Spec{Argv: []string{"/script"}, Root: root, Env: spec.Env}, nil); err == nil || !strings.Contains(err.Error(), "exec format error") {
		t.Errorf("without an emulator: %v, %q", err, out)
	}
	spec.Foreign = "vax"
	if _, err := run(t, context.Background(), spec, nil); err == nil || !strings.Contains(err.Error(), "programs of vax need qemu-vax-static to run here") || !strings.Contains(hint.Of(err), "`apt install qemu-user-static`; Fedora: `dnf install qemu-user-static-vax`") {
		t.Errorf("an architecture without an emulator: %v, hint %q", err, hint.Of(err))
	}
}
