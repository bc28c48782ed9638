package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/graph"
	"meros/runner"
	"meros/runner/guest"
	"meros/runner/image"
	"meros/runner/initrd"
	"meros/runner/qemu"
)

// aroundHooks is what is done to a system before and after hooks, wherever they
// run.
func aroundHooks(root string) (func() error, error) {
	remove, err := forbidServices(root)
	if err != nil {
		return nil, err
	}
	return func() error { return errors.Join(remove(), guest.Settle(root)) }, nil
}

// Files in the directory that QEMU runs in.
const (
	hooksDisk    = "disk.qcow2"
	hooksInitrd  = "initrd"
	hooksConsole = "console"
	hooksResult  = "result"
)

// stepHooksVM boots the machine on an overlay over its image, with an initrd
// that runs the hooks in it, and keeps what they have changed.
func stepHooksVM(ctx context.Context, s *step) error {
	dir, err := s.workDir("vm")
	if err != nil {
		return err
	}
	images, err := chainOf(s.paths("image")[0], s.paths("base")[0])
	if err != nil {
		return err
	}
	disk := filepath.Join(dir, hooksDisk)
	f, err := os.Create(disk)
	if err != nil {
		return err
	}
	if err := errors.Join(image.Overlay(f, images[0]), f.Close()); err != nil {
		return err
	}
	if err := s.hooksInitrd(filepath.Join(dir, hooksInitrd)); err != nil {
		return err
	}
	argv, err := s.hooksArgv(images)
	if err != nil {
		return err
	}
	if err := s.runGuest(ctx, dir, argv); err != nil {
		return err
	}
	console, err := readPart(filepath.Join(dir, hooksConsole), -1)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Out, "console"), console, 0o644); err != nil {
		return err
	}
	return s.output("image", func(out *os.File) error {
		if len(images) == 1 { // a whole one
			return image.Flatten(ctx, out, []string{disk, images[0]})
		}
		base := s.All("base")[0]
		return image.Merge(out, []string{disk, images[0]}, base.Path, imageName(base))
	})
}

func (s *step) hooks() []graph.StepInput {
	var all []graph.StepInput
	for _, l := range s.Locals {
		if l.Name != "kernel" {
			all = append(all, l)
		}
	}
	return all
}

func (s *step) hooksInitrd(file string) error {
	h := initrd.Hooks{Network: s.Params["network"] != "", Env: s.environment()}
	h.Timeout, _ = time.ParseDuration(s.Hints["timeout"])
	var files []initrd.File
	for i, hook := range s.hooks() {
		b, err := readHook(hook.Name, hook.Path)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%03d-%s", i, filepath.Base(hook.Name))
		files = append(files, initrd.File{Name: name, Mode: 0o755, Data: b})
		h.Names, h.Shown = append(h.Names, name), append(h.Shown, hook.Name)
	}
	return initrd.WriteHooks(file, s.paths("initrd")[0], h, files)
}

// hooksArgv is the command line of the QEMU, started in its directory.
func (s *step) hooksArgv(images []string) ([]string, error) {
	memory, err := strconv.ParseInt(s.Params["memory"], 10, 64)
	if err != nil {
		return nil, err
	}
	cpus, err := strconv.Atoi(s.Params["cpus"])
	if err != nil {
		return nil, err
	}
	accel, why, err := qemu.HostAccel(s.Hints["kvm"], s.Params["arch"])
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(s.log, why)
	q := qemu.Machine{
		Name: "hooks", Arch: s.Params["arch"], Accel: accel, Memory: memory, CPUs: cpus, Initrd: hooksInitrd, Once: true,
		Disks: [][]string{append([]string{hooksDisk}, images...)}, Console: hooksConsole, QMP: "qmp", Append: "quiet panic=-1",
		Ports: []qemu.Port{{Name: initrd.HooksLogPort, File: "/proc/self/fd/1"}, {Name: initrd.HooksResultPort, File: hooksResult}},
	}
	if s.Params["network"] != "" {
		q.Network.Open = true // and its clock is the world's: archives and certificates would be of the future
	} else {
		q.Clock = s.epoch().UTC().Format("2006-01-02T15:04:05")
	}
	if q.Kernel = s.local("kernel"); q.Kernel == "" {
		q.Kernel = s.paths("kernel")[0]
	}
	layout, err := s.layout()
	if err != nil {
		return nil, err
	}
	if layout != nil {
		q.Append += " root=" + layout.Device()
	}
	return q.Argv()
}

// runGuest runs QEMU in a sandbox of its own and reads what came of it.
func (s *step) runGuest(ctx context.Context, dir string, argv []string) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	first := &firstWrite{Writer: s.log, seen: make(chan struct{})}
	go func() {
		select {
		case <-first.seen:
		case <-ctx.Done():
		case <-time.After(bootPatience):
			stop(fmt.Errorf("the machine did not come up in %v", bootPatience))
		}
	}()
	if limit, _ := time.ParseDuration(s.Hints["timeout"]); limit > 0 {
		all := bootPatience + time.Duration(len(s.hooks()))*(limit+time.Minute)
		t := time.AfterFunc(all, func() { stop(fmt.Errorf("the machine did not end in %v (--timeout gives its hooks more)", all)) })
		defer t.Stop() // the guest keeps the limit of each hook, as long as its kernel is sound
	}
	spec := runner.Spec{
		Argv: argv, Dir: dir, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + dir},
		Network: runner.Network(s.Params["network"]), Groups: true, Mounts: []runner.Mount{{Source: dir, Target: dir, Writable: true}},
	}
	for _, in := range append(s.Inputs, s.Locals...) {
		spec.Mounts = append(spec.Mounts, runner.Mount{Source: in.Path, Target: in.Path})
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
	err := runner.Run(ctx, spec, runner.Stdio{Stdout: first, Stderr: s.log})
	text, rerr := readPart(filepath.Join(dir, hooksResult), 0)
	var r initrd.HooksResult
	switch {
	case rerr == nil && json.Unmarshal(text, &r) == nil && r.Error != "":
		return errors.New(r.Error)
	case rerr == nil && json.Unmarshal(text, &r) == nil && r.Ran == len(s.hooks()) && err == nil:
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err == nil {
		err = errors.New("the machine ended before its hooks did")
	}
	console, _ := readPart(filepath.Join(dir, hooksConsole), -1)
	lines := strings.Split(strings.TrimSpace(string(console)), "\n")
	for _, l := range lines[max(0, len(lines)-15):] {
		fmt.Fprintf(s.log, "console: %s\n", printable(strings.TrimRight(l, "\r")))
	}
	return err
}

// partMost is how much of a file is read that a guest has written, bytes.
const partMost = 16 << 10

// readPart reads the beginning of a file, or its end if from is negative. A
// guest that has taken over QEMU could have put something else there.
func readPart(file string, from int64) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		return nil, err
	}
	if from < 0 {
		from = max(0, fi.Size()-partMost)
	}
	return io.ReadAll(io.NewSectionReader(f, from, partMost))
}

// firstWrite tells that something was written.
type firstWrite struct {
	io.Writer
	seen chan struct{}
}

func (w *firstWrite) Write(p []byte) (int, error) {
	select {
	case <-w.seen:
	default:
		close(w.seen)
	}
	return w.Writer.Write(p)
}
