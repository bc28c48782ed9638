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
)

func epochEnv(t time.Time) string { return "SOURCE_DATE_EPOCH=" + strconv.FormatInt(t.Unix(), 10) }

// Debootstrap makes the same with debootstrap(8), from an archive of the
// given packages alone. Its first stage, which only unpacks, runs here; the
// second, which runs the packages' scripts, in the tree.
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
	// container=lxc keeps it from making device nodes that exist or cannot be.
	env := scriptEnv(epochEnv(o.Epoch), "container=lxc")
	args := []string{"--foreign", "--no-check-gpg", "--variant=minbase", "--arch=" + o.Arch, "--include=" + strings.Join(names, ","), o.Suite, o.Tree, "file://" + archive}
	if script := filepath.Join("/usr/share/debootstrap/scripts", o.Suite); !exists(script) {
		args = append(args, "/usr/share/debootstrap/scripts/sid") // a suite newer than this debootstrap
	}
	cmd := exec.CommandContext(ctx, "debootstrap", args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, archive, o.Log, o.Log
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return errors.New("debootstrap is not installed (apt install debootstrap, or leave out \"bootstrap: debootstrap\")")
		}
		return fmt.Errorf("debootstrap, first stage: %w", err)
	}
	// What a crash leaves is never used: nothing is waited for until it is on the
	// disk. The other two are dpkg's defaults, dpkg(1).
	env = append(env, "DPKG_FORCE=security-mac,downgrade,unsafe-io")
	if err := o.Run(ctx, []string{"/debootstrap/debootstrap", "--second-stage"}, env, nil); err != nil {
		return fmt.Errorf("debootstrap, second stage: %w", err)
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
