// This file installs further packages in a system by its own apt.

package debian

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// debDir is the directory of packages inside the system, while [Install] runs.
const debDir = "/run/meros-packages"

// Install adds packages to a system that has apt. apt knows which packages it must
// configure before it unpacks others. It reads no index and fetches nothing.
func Install(ctx context.Context, o InstallOptions) error {
	if !exists(filepath.Join(o.Root, "usr/bin/apt-get")) {
		return errors.New("install packages: the system has no apt-get")
	}
	files := make(map[string]string)
	argv := []string{
		"apt-get", "--yes", "--no-install-recommends", "--allow-downgrades", "--allow-change-held-packages", "-o", "APT::Sandbox::User=root",
		"-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-unsafe-io", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
		"-o", "Acquire::Languages=none", "install",
	}
	var automatic []string
	for _, p := range o.Debs {
		d, err := openDeb(ctx, p)
		if err != nil {
			return err
		}
		d.close()
		inside := filepath.Join(debDir, debFileName(d.control))
		files[inside] = p
		argv = append(argv, inside)
		if len(o.Names) > 0 && !slices.Contains(o.Names, d.name()) {
			automatic = append(automatic, d.name())
		}
	}
	env := scriptEnv(epochEnv(o.Epoch))
	if err := o.Run(ctx, argv, env, files); err != nil {
		return fmt.Errorf("apt-get install: %w", err)
	}
	if len(automatic) > 0 {
		if err := o.Run(ctx, append([]string{"apt-mark", "auto"}, automatic...), env, nil); err != nil {
			return fmt.Errorf("apt-mark auto: %w", err)
		}
	}
	return nil
}
