// This file makes and removes the further disks of a machine.

package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// file names the disk in its machine's directory. It stays there when the machine
// ends.
func (d Disk) file() string { return "disk-" + d.Label + ".qcow2" }

// origin names the file that holds the name of the disk's image.
func (d Disk) origin() string { return "disk-" + d.Label + ".image" }

// prepareDisk makes the disk unless it exists. If fresh is set, the machine's
// first disk is new, and an existing disk loses its snapshots.
func (l *launcher) prepareDisk(ctx context.Context, m *Machine, d Disk, fresh bool, note func(string)) error {
	file := l.file(m.Name, d.file())
	if _, err := os.Lstat(file); err == nil {
		if was, err := os.ReadFile(l.file(m.Name, d.origin())); err == nil && string(was) != filepath.Base(d.Image) {
			note(fmt.Sprintf("keeps its disk %s, although the manifest now describes another one; `meros reset %s %s` makes a new, empty disk", d.Label, l.Name, m.Name))
		}
		if !fresh {
			return nil
		}
		return dropSnapshots(ctx, file)
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := copyFile(file+".new", d.Image); err != nil {
		return err
	}
	if err := os.WriteFile(l.file(m.Name, d.origin()), []byte(filepath.Base(d.Image)), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// dropSnapshots removes the snapshots of an earlier run. They are useless: their
// memory was on the first disk, which is gone.
func dropSnapshots(ctx context.Context, file string) error {
	out, err := exec.CommandContext(ctx, "qemu-img", "snapshot", "-l", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, strings.TrimSpace(string(out)))
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.Trim(f[0], "0123456789") != "" {
			continue // headings
		}
		if out, err := exec.CommandContext(ctx, "qemu-img", "snapshot", "-d", f[1], file).CombinedOutput(); err != nil {
			return fmt.Errorf("qemu-img: %w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// reset removes a machine's further disks if OnRunning is [Reset].
func (l *launcher) reset(m *Machine) error {
	if m.OnRunning != Reset {
		return nil
	}
	entries, err := os.ReadDir(l.dir(m.Name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "disk-") {
			err = errors.Join(err, os.Remove(l.file(m.Name, e.Name())))
		}
	}
	return err
}
