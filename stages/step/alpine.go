// This file unpacks the mini root file system of an Alpine release and installs
// packages in it.

package step

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"meros/runner"
	"meros/runner/alpine"
	"meros/runner/guest"
	"meros/runner/layer"
	"meros/stages"
)

// alpine unpacks a mini root file system.
func (s *step) alpine(ctx context.Context) error {
	tree := filepath.Join(s.Work, "tree")
	if err := UnpackRootFS(ctx, s.paths(stages.InRootFS)[0], tree, s.Work); err != nil {
		return err
	}
	keys := make(map[string][]byte)
	for _, l := range s.Locals {
		if name, ok := strings.CutPrefix(l.Name, stages.InKey); ok {
			b, err := os.ReadFile(l.Path)
			if err != nil {
				return err
			}
			keys[name] = b
		}
	}
	if err := errors.Join(alpine.Trust(tree, alpine.Mirror(s.Params[stages.ParamMirror]), s.Params[stages.ParamBranch], keys), guest.Settle(tree)); err != nil {
		return err
	}
	return s.outputLayer(ctx, tree, true)
}

// apk installs the packages, and the files that let the system boot.
func (s *step) apk(ctx context.Context) error {
	root, upper, err := s.writable(s.paths(stages.InLower))
	if err != nil {
		return err
	}
	if apks := s.paths(stages.InApk); len(apks) > 0 {
		w := s.watchPackages(len(apks))
		defer w.flush()
		run := Apk(root, s.Params[stages.ParamForeign], []string{"SOURCE_DATE_EPOCH=" + s.Params[stages.ParamEpoch]})
		if err := alpine.Install(ctx, run, root, s.Work, apks, strings.Fields(s.Params[stages.ParamNames]), s.log); err != nil {
			return err
		}
	}
	if err := errors.Join(alpine.Setup(root, s.Params[stages.ParamSetup]), guest.Settle(root)); err != nil {
		return err
	}
	return s.outputUpper(ctx, root, upper)
}

// UnpackRootFS unpacks a mini root file system into the new directory tree. It writes
// a temporary file in the directory work.
func UnpackRootFS(ctx context.Context, file, tree, work string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(work, "rootfs.tar"))
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	if err := errors.Join(alpine.Layer(out, in), out.Close()); err != nil {
		return err
	}
	return layer.Unpack(ctx, out.Name(), tree)
}

// Apk returns a function that runs apk, or another program, of the system in root in
// a sandbox. foreign is the architecture of the system if the host cannot run its
// programs, else "".
func Apk(root, foreign string, env []string) alpine.Run {
	return func(ctx context.Context, argv []string, mounts []alpine.Mount, out io.Writer) error {
		spec := runner.Spec{
			Argv: argv, Root: root, Hostname: "localhost", Foreign: foreign,
			Env: append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TZ=UTC", "TERM=dumb"}, env...),
		}
		for _, m := range mounts {
			spec.Mounts = append(spec.Mounts, runner.Mount{Source: m.Source, Target: m.Target, Writable: m.Writable})
		}
		return runner.Run(ctx, spec, runner.Stdio{Stdout: out, Stderr: out})
	}
}
