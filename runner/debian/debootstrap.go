// This file makes a base system by debootstrap(8).

package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"meros/runner/hint"
)

// epochEnv returns the environment variable that fixes the time of
// reproducible-builds.org.
func epochEnv(t time.Time) string { return "SOURCE_DATE_EPOCH=" + strconv.FormatInt(t.Unix(), 10) }

// Debootstrap makes the same base system as [Bootstrap], by debootstrap(8) from
// an archive that only has the given packages. debootstrap's first stage only
// unpacks, and runs here. Its second stage runs the packages' scripts, and runs in
// the tree.
func Debootstrap(ctx context.Context, o BootstrapOptions) error {
	archive, err := os.MkdirTemp("", "meros-archive-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(archive)
	names, err := LocalArchive(ctx, archive, o.Suite, o.Arch, o.Debs, o.Epoch)
	if err != nil {
		return err
	}
	// With container=lxc it does not make device nodes. They exist already, or
	// it may not make them.
	env := scriptEnv(epochEnv(o.Epoch), "container=lxc")
	args := []string{"--foreign", "--no-check-gpg", "--variant=minbase", "--arch=" + o.Arch, "--include=" + strings.Join(names, ","), o.Suite, o.Tree, "file://" + archive}
	if script := filepath.Join("/usr/share/debootstrap/scripts", o.Suite); !exists(script) {
		args = append(args, "/usr/share/debootstrap/scripts/sid") // a suite newer than this debootstrap
	}
	cmd := exec.CommandContext(ctx, "debootstrap", args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, archive, o.Log, o.Log
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return hint.Add(errors.New("debootstrap is not installed"), "on Debian: `apt install debootstrap`; or remove `bootstrap: debootstrap` from the manifest")
		}
		return fmt.Errorf("first stage of debootstrap: %w", err)
	}
	// meros never uses the tree of a build that crashed. So dpkg need not wait
	// for the disk: unsafe-io. The other two are dpkg's defaults, dpkg(1).
	env = append(env, "DPKG_FORCE=security-mac,downgrade,unsafe-io")
	if err := o.Run(ctx, []string{"/debootstrap/debootstrap", "--second-stage"}, env, nil); err != nil {
		return fmt.Errorf("second stage of debootstrap: %w", err)
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
