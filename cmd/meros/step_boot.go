package main

import (
	"archive/tar"
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

	"meros/constellations"
	"meros/runner/alpine"
	"meros/runner/debian"
	"meros/runner/initrd"
	"meros/runner/layer"
	"meros/runner/vm"
)

// stepKernel takes the kernel out of its package.
func stepKernel(ctx context.Context, s *step) error {
	dest, err := s.workDir("kernel")
	if err != nil {
		return err
	}
	files, err := s.workDir("files")
	if err != nil {
		return err
	}
	modules, file := strings.Fields(s.Params["modules"]), s.paths("deb")[0]
	var missing []string
	if s.Params["format"] == "apk" {
		contents := func(entry func(*tar.Header, io.Reader) error) error { return alpine.Contents(file, entry) }
		missing, err = debian.ExtractKernelFrom(ctx, file, contents, modules, dest, files)
	} else {
		missing, err = debian.ExtractKernel(ctx, file, modules, dest, files)
	}
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		fmt.Fprintf(s.log, "not in this kernel: %s\n", strings.Join(missing, " "))
	}
	for name, file := range map[string]string{"kernel": "vmlinuz", "release": "release", "config": "config"} {
		if err := moveFile(filepath.Join(dest, file), filepath.Join(s.Out, name)); err != nil {
			return err
		}
	}
	return s.outputSparse("modules", func(w io.Writer) error {
		return layer.Capture(ctx, w, filepath.Join(dest, "modules"), s.epoch(), false)
	})
}

// moveFile copies: the two may be on different file systems.
func moveFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func stepInitrd(_ context.Context, s *step) error {
	modules := ""
	if in := s.paths("modules"); len(in) > 0 {
		modules = in[0]
	}
	libraries := make(map[string]string)
	for _, l := range s.Locals {
		if name, ok := strings.CutPrefix(l.Name, "library "); ok {
			libraries[name] = l.Path
		}
	}
	return s.output("initrd", func(f *os.File) error { return initrd.Build(f, s.local("init"), modules, libraries) })
}

// bootPatience is how long a machine may take until it can be logged in to,
// where nothing else is said: systemd in an emulated processor takes 40 s on
// an idle host.
const bootPatience = 5 * time.Minute

// stepBoot boots the machine once on a throw-away disk.
func stepBoot(ctx context.Context, s *step) error {
	memory, err := strconv.ParseInt(s.Params["memory"], 10, 64)
	if err != nil {
		return err
	}
	cpus, err := strconv.Atoi(s.Params["cpus"])
	if err != nil {
		return err
	}
	images, err := chainOf(s.paths("image")[0], s.paths("base")[0])
	if err != nil {
		return err
	}
	m := &vm.Machine{
		Name: s.Params["hostname"], Arch: s.Params["arch"], Memory: memory, CPUs: cpus, KVM: constellations.KVM(s.Hints["kvm"]), User: s.Params["user"],
		Initrd: s.paths("initrd")[0], Images: images, MAC: managementMAC("", s.Params["hostname"]),
	}
	for _, in := range s.Inputs {
		if label, ok := strings.CutPrefix(in.Name, "disk "); ok {
			m.Disks = append(m.Disks, vm.Disk{Label: label, Image: in.Path})
		}
	}
	layout, err := s.layout()
	if err != nil {
		return err
	}
	if layout != nil {
		m.Root = layout.Arguments()
	}
	if args := s.Params["args"]; args != "" {
		m.Extra = strings.Split(args, "\x00")
	}
	m.Kernel = s.given("kernel")
	g := &vm.Group{Name: "check", State: filepath.Join(s.Work, "state"), Keys: filepath.Join(s.Work, "keys"), SSH: filepath.Join(s.Work, "keys", "ssh")}
	v, err := g.Check(ctx, m, bootPatience)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.log, "ready after %.1f s: %s, %s (%s)\n", v.Seconds, v.OSRelease["PRETTY_NAME"], v.Kernel, v.Accel)
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Out, "verdict"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return moveFile(g.Console(m.Name), filepath.Join(s.Out, "console"))
}
