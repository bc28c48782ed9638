package debian

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// debDir is where [Install] shows packages inside the system.
const debDir = "/run/meros-packages"

// Install adds packages to a system that has apt: apt orders what must be
// configured before what is unpacked. No index is read and nothing fetched.
func Install(ctx context.Context, o InstallOptions) error {
	if !exists(filepath.Join(o.Root, "usr/bin/apt-get")) {
		return errors.New("the system has no apt-get, which installs further packages")
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
