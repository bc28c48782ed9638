// This file runs hooks in a sandbox. Their changes become a layer.

package step

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"meros/runner"
	"meros/runner/hint"
	"meros/stages"
)

// resolvConf is the file, in the work directory, that names the name server for hooks
// with a network.
const resolvConf = "resolv.conf"

// hooks runs the scripts in order.
func (s *step) hooks(ctx context.Context) error {
	root, upper, err := s.writable(s.paths(stages.InLower))
	if err != nil {
		return err
	}
	after, err := aroundHooks(root)
	if err != nil {
		return err
	}
	_, lerr := os.Lstat(filepath.Join(root, "etc/resolv.conf"))
	if s.Params[stages.ParamNetwork] != "" {
		file := filepath.Join(s.Work, resolvConf)
		if err := os.WriteFile(file, []byte("nameserver "+runner.UserResolver+"\n"), 0o644); err != nil {
			return err
		}
	}
	timeout, _ := time.ParseDuration(s.Hints[stages.HintTimeout])
	for _, hook := range s.Locals {
		fmt.Fprintf(s.log, "== %s\n", hook.Name)
		if err := s.hook(ctx, root, hook.Name, hook.Path, timeout); err != nil {
			return err
		}
	}
	if s.Params[stages.ParamNetwork] != "" && lerr != nil {
		os.Remove(filepath.Join(root, "etc/resolv.conf")) // the sandbox made it to mount on
	}
	if err := after(); err != nil {
		return err
	}
	return errors.Join(s.outputDirectories(root), s.outputUpper(ctx, root, upper))
}

// readHook reads a script.
func readHook(name, file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err == nil && !strings.HasPrefix(string(b), "#!") {
		err = hint.Add(fmt.Errorf("%s: the first line does not name its interpreter", name), "begin it with `#!/bin/sh` or the like")
	}
	return b, err
}

// hook runs one script. The script lies below /run, which is not in the image.
func (s *step) hook(ctx context.Context, root, name, file string, timeout time.Duration) error {
	script := filepath.Join(s.Work, "hook")
	b, err := readHook(name, file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(script, b, 0o755); err != nil {
		return err
	}
	defer os.Remove(script)
	target := "/run/meros/" + filepath.Base(name)
	err = s.runForeign(ctx, root, []string{target}, nil, func(spec *runner.Spec) {
		spec.Dir, spec.Timeout = "/", timeout
		spec.Mounts = []runner.Mount{{Target: "/run"}, {Source: script, Target: target}}
		if n := s.Params[stages.ParamNetwork]; n != "" {
			spec.Network = runner.Network(n)
			spec.Mounts = append(spec.Mounts, runner.Mount{Source: filepath.Join(s.Work, resolvConf), Target: resolvTarget(root)})
		}
	})
	if exit := (*runner.ExitError)(nil); errors.As(err, &exit) && exit.TimedOut > 0 {
		return hint.Add(fmt.Errorf("%s: %w", name, err), "a longer `--timeout` gives the hook more time")
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
		if h := s.installHint(b); h != "" {
			err = hint.Add(err, "%s", h)
		}
	}
	return err
}

// resolvTarget returns the path that /etc/resolv.conf in root stands for. It may be a
// link to a file that only a running system has.
func resolvTarget(root string) string {
	const name = "/etc/resolv.conf"
	to, err := os.Readlink(filepath.Join(root, name))
	if err != nil {
		return name
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join("/etc", to)
	}
	return filepath.Clean(to)
}

// installHint returns the next step for a failed hook that installs packages without a
// network, or "".
func (s *step) installHint(hook []byte) string {
	if s.Params[stages.ParamNetwork] != "" || !stages.InstallsPackages(hook) {
		return ""
	}
	return "hooks have no network: list packages in `packages:`, which pins them, or set `hooks: {network: true}`"
}
