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

// file is the disk's name in its machine's directory. It is not removed with
// the machine's end.
func (d Disk) file() string { return "disk-" + d.Label + ".qcow2" }

// origin is where the name of the image is that the disk is a copy of.
func (d Disk) origin() string { return "disk-" + d.Label + ".image" }

// prepareDisk makes the disk if there is none. fresh tells that the machine's
// first disk is a new one.
func (l *launcher) prepareDisk(ctx context.Context, m *Machine, d Disk, fresh bool, note func(string)) error {
	file := l.file(m.Name, d.file())
	if _, err := os.Lstat(file); err == nil {
		if was, err := os.ReadFile(l.file(m.Name, d.origin())); err == nil && string(was) != filepath.Base(d.Image) {
			note(fmt.Sprintf("its disk %s stays as it was made, the manifest describes another one (meros reset %s %s makes it anew, empty)", d.Label, l.Name, m.Name))
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

// dropSnapshots removes those of an earlier run: their memory was on the first
// disk.
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

// reset removes a machine's further disks if that is asked for.
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
