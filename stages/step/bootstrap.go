// This file makes the base system of a Debian or Ubuntu suite from its packages.

package step

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"meros/runner"
	"meros/runner/arch"
	"meros/runner/debian"
	"meros/stages"
)

// bootstrap unpacks and configures the packages, without a network.
func (s *step) bootstrap(ctx context.Context) error {
	tree := filepath.Join(s.Out, stages.OutLayer+".tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	names, err := arch.Find(s.Params[stages.ParamArch])
	if err != nil {
		return err
	}
	w := s.watchPackages(len(s.paths(stages.InDeb)))
	defer w.flush()
	o := debian.BootstrapOptions{
		Tree: tree, Debs: s.paths(stages.InDeb), Arch: names.Debian, Suite: s.Params[stages.ParamSuite], Epoch: s.epoch(), Jobs: s.CPU, Log: s.log,
		Run: s.runIn(tree),
	}
	engine := debian.Bootstrap
	if s.Params[stages.ParamEngine] == "debootstrap" {
		engine = debian.Debootstrap
	}
	if err := engine(ctx, o); err != nil {
		return err
	}
	if err := recopyFile(tree, "etc/resolv.conf"); err != nil { // debootstrap copies the sandbox's
		return err
	}
	if err := s.settle(tree); err != nil {
		return err
	}
	sources, err := debian.SourcesList(s.Params[stages.ParamDistribution], s.Params[stages.ParamSuite], names.Debian, s.Params[stages.ParamMirror])
	if err != nil {
		return err
	}
	if err := replaceFile(tree, "etc/apt/sources.list", sources); err != nil {
		return err
	}
	return s.outputLayer(ctx, tree, true)
}

// removeFile removes a file of a tree. Links in the tree do not lead out of it.
func recopyFile(tree, name string) error {
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

// replaceFile writes a file of a tree. Links in the tree do not lead out of it.
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

// runIn returns a function that runs packages' programs in root.
func (s *step) runIn(root string) debian.Run {
	return func(ctx context.Context, argv, env []string, files map[string]string) error {
		return s.runForeign(ctx, root, argv, env, func(spec *runner.Spec) {
			for target, file := range files {
				spec.Mounts = append(spec.Mounts, runner.Mount{Source: file, Target: target})
			}
			if slices.ContainsFunc(spec.Mounts, func(m runner.Mount) bool { return strings.HasPrefix(m.Target, "/run/") }) {
				spec.Mounts = append([]runner.Mount{{Target: "/run"}}, spec.Mounts...)
			}
		})
	}
}
