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
	"meros/stages"
)

// resolvConf is the name server's address for hooks that have a network.
const resolvConf = "resolv.conf"

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
		os.Remove(filepath.Join(root, "etc/resolv.conf")) // it was only mounted upon
	}
	if err := after(); err != nil {
		return err
	}
	return errors.Join(s.outputDirectories(root), s.outputUpper(ctx, root, upper))
}

func readHook(name, file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err == nil && !strings.HasPrefix(string(b), "#!") {
		err = fmt.Errorf("%s: its first line does not say what runs it (such as #!/bin/sh)", name)
	}
	return b, err
}

// hook runs one script, from a place that is not in the image.
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
	inside := "/run/meros/" + filepath.Base(name)
	err = s.inside(ctx, root, []string{inside}, nil, func(spec *runner.Spec) {
		spec.Dir, spec.Timeout = "/", timeout
		spec.Mounts = []runner.Mount{{Target: "/run"}, {Source: script, Target: inside}}
		if n := s.Params[stages.ParamNetwork]; n != "" {
			spec.Network = runner.Network(n)
			spec.Mounts = append(spec.Mounts, runner.Mount{Source: filepath.Join(s.Work, resolvConf), Target: resolvTarget(root)})
		}
	})
	if exit := (*runner.ExitError)(nil); errors.As(err, &exit) && exit.TimedOut > 0 {
		return fmt.Errorf("%s: %w (--timeout gives it more)", name, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w%s", name, err, adviseInstall(b, s.Params[stages.ParamNetwork] != ""))
	}
	return nil
}

// resolvTarget is what /etc/resolv.conf in root stands for: it may be a link to
// what only a running system has.
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

// adviseInstall is what helps a hook that failed, and that installs packages
// without a network, or "".
func adviseInstall(hook []byte, network bool) string {
	if network || !stages.InstallsPackages(hook) {
		return ""
	}
	return " (it installs packages, and has no network: \"packages:\" has them pinned, and without a hook; \"hooks: {network: true}\" gives it one)"
}
