// This file boots a machine for a step, in a sandbox of its own. Nothing that the
// machine says is trusted.

package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner"
	"meros/runner/hint"
	"meros/runner/image"
	"meros/runner/initrd"
	"meros/runner/layer"
	"meros/runner/qemu"
	"meros/stages"
)

// Inside returns the functions that the first process of a guest needs from here.
func Inside() initrd.Inside {
	return initrd.Inside{
		Around: aroundHooks,
		Capture: func(w io.Writer, root string) error {
			_, err := layer.CaptureSystem(context.Background(), w, root, time.Now())
			return err
		},
		Apply: func(r io.Reader, root string) error { return layer.Apply(context.Background(), r, root) },
	}
}

// These are files in the directory that QEMU runs in.
const (
	guestDisk    = "disk.qcow2"
	guestLayers  = "layers.qcow2"
	guestInitrd  = "initrd"
	guestConsole = "console"
	guestResult  = "result"
	guestTree    = "tree"
)

// guestOverlay makes a guest's disk over an image, and returns its path.
func guestOverlay(dir, over string) (string, error) {
	disk := filepath.Join(dir, guestDisk)
	return disk, writeFile(disk, func(f *os.File) error { return image.Overlay(f, over) })
}

// guestMachine returns a machine that works for a stage and then powers off. memory is
// in bytes; disk lists the files of its disk, the top first.
func (s *step) guestMachine(memory int64, cpus int, disk []string) *qemu.Machine {
	return &qemu.Machine{
		Name: s.Stage, Kernel: s.given(stages.InKernel), Arch: s.Params[stages.ParamArch], Memory: memory, CPUs: cpus, Initrd: guestInitrd, Once: true, Disks: [][]string{disk},
		Console: guestConsole, QMP: "qmp", Append: "quiet panic=-1", Clock: s.epoch().UTC().Format("2006-01-02T15:04:05"),
		Ports: []qemu.Port{{Name: initrd.HooksResultPort, File: guestResult}},
	}
}

// errSilent is the error of a guest that crashed, or that was powered off inside.
var errSilent = errors.New("the machine ended without a result")

// runGuest runs QEMU in a sandbox of its own, and reads the guest's result, which is
// JSON, into result.
func (s *step) runGuest(ctx context.Context, dir string, q *qemu.Machine, out io.Writer, result any) error {
	accel, why, err := qemu.HostAccel(ctx, s.Hints[stages.HintKVM], q.Arch, q.CPUs)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.log, why)
	q.Accel = accel
	argv, err := q.Argv()
	if err != nil {
		return err
	}
	spec := runner.Spec{
		Argv: argv, Dir: dir, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + dir},
		Network: runner.Network(s.Params[stages.ParamNetwork]), Groups: true, Mounts: []runner.Mount{{Source: dir, Target: dir, Writable: true}},
	}
	for _, in := range append(s.Inputs, s.Locals...) {
		spec.Mounts = append(spec.Mounts, runner.Mount{Source: in.Path, Target: in.Path})
	}
	for _, file := range slices.Concat(q.Disks...) {
		if filepath.Dir(file) == s.Work {
			spec.Mounts = append(spec.Mounts, runner.Mount{Source: file, Target: file})
		}
	}
	if _, err := os.Stat("/dev/kvm"); err == nil {
		spec.Mounts = append(spec.Mounts, runner.Mount{Source: "/dev/kvm", Target: "/dev/kvm", Device: true})
	}
	if spec.Network != runner.NoNetwork {
		file := filepath.Join(s.Work, resolvConf)
		if err := os.WriteFile(file, []byte("nameserver "+runner.UserResolver+"\n"), 0o644); err != nil {
			return err
		}
		spec.Mounts = append(spec.Mounts, runner.Mount{Source: file, Target: "/etc/resolv.conf"})
	}
	err = runner.Run(ctx, spec, runner.Stdio{Stdout: out, Stderr: s.log})
	text, rerr := readPart(filepath.Join(dir, guestResult), 0)
	if rerr == nil && json.Unmarshal(text, result) == nil && (err == nil || ctx.Err() == nil) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err == nil {
		err = errSilent
	}
	console, _ := readPart(filepath.Join(dir, guestConsole), -1)
	lines := strings.Split(strings.TrimSpace(string(console)), "\n")
	for _, l := range lines[max(0, len(lines)-15):] {
		fmt.Fprintf(s.log, "console: %s\n", runner.Printable(strings.TrimRight(l, "\r")))
	}
	return err
}

// partMost is how much of a file that a guest wrote is read, bytes.
const partMost = 16 << 10

// readPart reads the beginning of a file, or its end if from is negative. A guest that
// has taken over QEMU could have put a link or a device there.
func readPart(file string, from int64) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, err
	}
	if from < 0 {
		from = max(0, fi.Size()-partMost)
	}
	return io.ReadAll(io.NewSectionReader(f, from, partMost))
}

// guestError returns the error of a guest with its next steps, if there are any.
func guestError(text, next string) error {
	if next == "" {
		return errors.New(text)
	}
	return hint.Add(errors.New(text), "%s", next)
}
