package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/constellations"
	"meros/runner"
	"meros/runner/debian"
	"meros/runner/fetch"
	"meros/runner/guest"
	"meros/runner/layer"
)

func stepFetch(ctx context.Context, s *step) error {
	var urls []string
	if err := json.Unmarshal([]byte(s.Hints["urls"]), &urls); err != nil {
		return err
	}
	size, err := strconv.ParseInt(s.Hints["size"], 10, 64)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(urls, constellations.OfRegistry) {
		return s.output("file", func(f *os.File) error { // see fetchesOfLayers
			_, err := io.Copy(&counted{Writer: f, total: size, report: s.report}, os.Stdin)
			return err
		})
	}
	servers, err := reached()
	if err != nil {
		return err
	}
	last := time.Now()
	err = fetch.To(ctx, filepath.Join(s.Out, "file"), fetch.Options{
		URLs: urls, SHA256: strings.TrimPrefix(s.Hints["digest"], "sha256:"), Size: size, Partial: "/partial", Servers: servers,
		Report: func(done, total int64) {
			if time.Since(last) > 200*time.Millisecond {
				last = time.Now()
				s.report(done, total)
			}
		},
	})
	if errors.As(err, new(fetch.GoneError)) {
		hint := "what the manifest names is gone from there"
		if slices.ContainsFunc(urls, func(u string) bool { return strings.HasSuffix(u, ".deb") || strings.HasSuffix(u, ".apk") }) {
			hint = fmt.Sprintf("what the lock pins is gone from there: meros update pins what there is now; a snapshot service of Debian's packages, named by %s, may have it", snapshotEnv)
		}
		err = fmt.Errorf("%w (%s)", err, hint)
	}
	return err
}

// counted reports how much was written.
type counted struct {
	io.Writer
	done, total int64
	last        time.Time
	report      func(done, total int64)
}

func (c *counted) Write(p []byte) (int, error) {
	if c.done += int64(len(p)); c.done > c.total {
		return 0, fmt.Errorf("it is larger than the %d bytes that the lock has", c.total)
	}
	if time.Since(c.last) > 200*time.Millisecond {
		c.last = time.Now()
		c.report(c.done, c.total)
	}
	return c.Writer.Write(p)
}

func stepBootstrap(ctx context.Context, s *step) error {
	tree := filepath.Join(s.Out, "layer.tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	arch, err := dpkgArch(s.Params["arch"])
	if err != nil {
		return err
	}
	w := s.watchPackages(len(s.paths("deb")))
	defer w.flush()
	o := debian.BootstrapOptions{
		Tree: tree, Debs: s.paths("deb"), Arch: arch, Suite: s.Params["suite"], Epoch: s.epoch(), Jobs: s.CPU, Log: s.log,
		Run: s.runIn(tree),
	}
	engine := debian.Bootstrap
	if s.Params["engine"] == "debootstrap" {
		engine = debian.Debootstrap
	}
	if err := engine(ctx, o); err != nil {
		return err
	}
	if err := removeFile(tree, "etc/resolv.conf"); err != nil { // debootstrap's copy of what it sees
		return err
	}
	if err := s.settle(tree); err != nil {
		return err
	}
	sources, err := debian.SourcesList(s.Params["distribution"], s.Params["suite"], arch, s.Params["mirror"])
	if err != nil {
		return err
	}
	if err := replaceFile(tree, "etc/apt/sources.list", sources); err != nil {
		return err
	}
	return s.outputLayer(ctx, tree, true)
}

// removeFile removes a file of a tree whose links lead nowhere else.
func removeFile(tree, name string) error {
	r, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// replaceFile writes a file of a tree whose links lead nowhere else.
func replaceFile(tree, name, text string) error {
	r, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	f, err := r.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

// runIn runs what a package brings in root.
func (s *step) runIn(root string) debian.Run {
	return func(ctx context.Context, argv, env []string, files map[string]string) error {
		return s.inside(ctx, root, argv, env, func(spec *runner.Spec) {
			for inside, file := range files {
				spec.Mounts = append(spec.Mounts, runner.Mount{Source: file, Target: inside})
			}
			if slices.ContainsFunc(spec.Mounts, func(m runner.Mount) bool { return strings.HasPrefix(m.Target, "/run/") }) {
				spec.Mounts = append([]runner.Mount{{Target: "/run"}}, spec.Mounts...)
			}
		})
	}
}

func stepPackages(ctx context.Context, s *step) error {
	root, upper, err := s.writable(s.paths("lower"))
	if err != nil {
		return err
	}
	remove, err := forbidServices(root)
	if err != nil {
		return err
	}
	w := s.watchPackages(2 * len(s.paths("deb")))
	defer w.flush()
	err = debian.Install(ctx, debian.InstallOptions{
		Root: root, Debs: s.paths("deb"), Names: strings.Fields(s.Params["names"]), Epoch: s.epoch(), Log: s.log,
		Run: s.runIn(root),
	})
	if err != nil {
		return err
	}
	if err := remove(); err != nil {
		return err
	}
	if err := s.settle(root); err != nil {
		return err
	}
	return s.outputUpper(ctx, root, upper)
}

// settle removes what installing packages leaves behind.
func (s *step) settle(root string) error {
	return errors.Join(debian.Clean(root, s.epoch()), guest.Settle(root))
}

// outputUpper captures what was changed in a writable root.
func (s *step) outputUpper(ctx context.Context, root, upper string) error {
	if err := unix.Unmount(root, 0); err != nil {
		return fmt.Errorf("unmount the root: %w", err)
	}
	return s.outputLayer(ctx, upper, false)
}

func stepOverlay(ctx context.Context, s *step) error {
	base, err := s.lower(s.paths("lower"))
	if err != nil {
		return err
	}
	owners := make(layer.Owners)
	var dirs []string
	for _, prefix := range []string{"common ", ""} {
		if dir := s.local(prefix + "includes.chroot"); dir != "" {
			dirs = append(dirs, dir)
		}
		if file := s.local(prefix + "owners"); file != "" {
			if err := readOwners(owners, file, base); err != nil {
				return fmt.Errorf("%sowners: %w", prefix, err)
			}
		}
	}
	composed := filepath.Join(s.Work, "composed")
	err = s.outputSparse("layer", func(w io.Writer) error {
		return layer.Compose(ctx, w, dirs, layer.ComposeOptions{Owners: owners, Epoch: s.epoch(), Base: base})
	})
	if err != nil {
		return err
	}
	if err := layer.Unpack(ctx, filepath.Join(s.Out, "layer"), composed); err != nil {
		return err
	}
	return errors.Join(s.outputAccounts(composed), s.outputDirectories(composed, base))
}

// readOwners reads an owners file whose names are those of the system below.
func readOwners(owners layer.Owners, file, base string) error {
	accounts, err := guest.ReadAccounts(base)
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	more, err := layer.ParseOwners(f, accounts.Lookup)
	for p, o := range more {
		owners[p] = o
	}
	return err
}

// policyFile is what keeps package scripts from starting services,
// invoke-rc.d(8).
const policyFile = "usr/sbin/policy-rc.d"

// forbidServices keeps hooks that install packages from starting daemons, as
// long as the system has no policy of its own.
func forbidServices(root string) (remove func() error, err error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if _, err := r.Lstat(policyFile); err == nil {
		return func() error { return nil }, nil
	}
	f, err := r.OpenFile(policyFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return func() error { return nil }, nil // no such directory: nothing that would ask
	}
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	return func() error {
		r, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		defer r.Close()
		if err := r.Remove(policyFile); err != nil && !os.IsNotExist(err) {
			return err
		}
		return nil
	}, errors.Join(err, f.Chmod(0o755), f.Close())
}
