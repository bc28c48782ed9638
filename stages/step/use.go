// This file makes a foreign image the base of a machine.

package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/guest"
	"meros/runner/hint"
	"meros/runner/image"
	"meros/runner/layer"
	"meros/stages"
)

// use finds the root file system of the image, reads its files and makes it larger.
func (s *step) use(ctx context.Context) error {
	disk, err := image.OpenForeign(ctx, s.given(stages.InImage), s.imageOptions(nil))
	if err != nil {
		return err
	}
	defer disk.Close()
	l, err := disk.Root(ctx)
	guest := (*image.GuestError)(nil)
	switch {
	case errors.As(err, &guest) && len(s.paths(stages.InInitrd)) > 0:
		l, err = s.useInGuest(ctx, disk, guest.Candidates)
	case err == nil:
		err = s.useExt(ctx, disk, l)
	}
	if err != nil {
		return err
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Out, stages.OutLayout), b, 0o644)
}

// useExt reads an ext file system and makes it larger.
func (s *step) useExt(ctx context.Context, disk *image.ForeignDisk, l *image.Layout) error {
	root, err := disk.GrowExt(ctx, l)
	if err != nil {
		return err
	}
	if err := s.output(stages.OutImage, disk.Write); err != nil {
		return err
	}
	tree, stop, err := s.mountExt(ctx, root)
	if err != nil {
		return err
	}
	return errors.Join(s.outputSystem(ctx, tree), stop())
}

// outputSystem writes the files of the image as the layer below hooks and included
// files, and the list of files that the layer lacks. more is added to that list.
func (s *step) outputSystem(ctx context.Context, tree string, more ...layer.Omission) error {
	if arch, program, err := guest.Arch(tree); err != nil {
		return err
	} else if want := s.Params[stages.ParamArch]; arch != "" && want != "" && !guest.Runs(want, arch) {
		return hint.Add(fmt.Errorf("its /%s is a program of %s, and the machine is of %s", program, arch, want), "set `arch: %s` in the manifest", arch)
	}
	var omitted []layer.Omission
	err := s.outputSparse(stages.OutLayer, func(w io.Writer) (err error) {
		omitted, err = layer.CaptureSystem(ctx, w, tree, s.epoch())
		return err
	})
	if err != nil {
		return err
	}
	b, err := json.Marshal(append(omitted, more...))
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(s.Out, stages.OutOmitted), b, 0o644), s.outputAccounts(tree))
}

// mountWait is the time that fuse2fs has to mount.
const mountWait = 20 * time.Second

// mountExt shows an ext file system as a read-only directory. The kernel's own driver
// needs root, and must not read a file system that nobody has checked.
func (s *step) mountExt(ctx context.Context, file string) (dir string, stop func() error, err error) {
	if dir, err = s.workDir("mnt"); err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, "fuse2fs", "-f", "-o", "ro,fakeroot,allow_other", file, dir)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			err = hint.Add(errors.New("fuse2fs is not installed, which reads the file system"), "on Debian, `apt install fuse2fs` installs it")
		}
		return "", nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() error {
		err := unix.Unmount(dir, 0)
		if err != nil {
			cmd.Process.Kill()
		}
		<-ended
		return err
	}
	for end := time.Now().Add(mountWait); ; time.Sleep(5 * time.Millisecond) {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.FUSE_SUPER_MAGIC {
			return dir, stop, nil
		}
		select {
		case err := <-ended:
			return "", nil, hint.Add(fmt.Errorf("fuse2fs: %w: %s", errors.Join(err, ctx.Err()), strings.TrimSpace(said.String())), "fuse2fs needs /dev/fuse")
		default:
		}
		if time.Now().After(end) {
			cmd.Process.Kill()
			<-ended
			return "", nil, fmt.Errorf("fuse2fs did not mount the file system within %v", mountWait)
		}
	}
}

// layout returns the place of the root file system in a foreign base, or nil if meros
// made the base.
func (s *step) layout() (*image.Layout, error) {
	files := s.paths(stages.InLayout)
	if len(files) == 0 {
		return nil, nil
	}
	return image.ReadLayout(files[0])
}
