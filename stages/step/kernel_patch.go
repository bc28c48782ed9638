// This file patches a kernel's source.

package step

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"

	"meros/runner"
	"meros/runner/hint"
	"meros/runner/layer"
	"meros/stages"
)

// These match messages of patch(1): a hunk that does not apply, and the file at hand.
var (
	hunk     = regexp.MustCompile(`^Hunk #(\d+) (FAILED|ignored) at (\d+)`)
	patching = regexp.MustCompile(`^(?:patching|checking) file (.*)$`)
)

// kernelPatch applies the patches in order. Its layer holds the changed files.
func (s *step) kernelPatch(ctx context.Context) error {
	tools, _, err := s.writable(s.paths(stages.InTools))
	if err != nil {
		return err
	}
	dirs := make(map[string]string)
	for _, name := range []string{"source", "changes", "overlay"} {
		if dirs[name], err = s.workDir(name); err != nil {
			return err
		}
	}
	if err := mountOverlay(dirs["source"], s.paths(stages.InSource), dirs["changes"], dirs["overlay"]); err != nil {
		return err
	}
	for _, p := range s.Locals {
		fmt.Fprintf(s.log, "== %s\n", p.Name)
		if err := s.patch(ctx, tools, dirs["source"], p.Name, p.Path); err != nil {
			return err
		}
	}
	return s.outputSparse(stages.OutLayer, func(w io.Writer) error { return layer.Capture(ctx, w, dirs["changes"], sourceTime, false) })
}

// patch applies one patch.
func (s *step) patch(ctx context.Context, tools, source, name, file string) error {
	var said strings.Builder
	err := runner.Run(ctx, runner.Spec{
		Argv: []string{"patch", "--strip=1", "--batch", "--forward", "--no-backup-if-mismatch", "--input=/run/patch"}, Root: tools, Dir: sourceDir,
		Env:    []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=/tmp"},
		Mounts: []runner.Mount{{Source: source, Target: sourceDir, Writable: true}, {Target: "/run"}, {Source: file, Target: "/run/patch"}},
	}, runner.Stdio{Stdout: io.MultiWriter(s.log, &said), Stderr: io.MultiWriter(s.log, &said)})
	if err == nil {
		return nil
	}
	at := ""
	for line := range strings.Lines(said.String()) {
		line = strings.TrimSpace(line)
		if m := patching.FindStringSubmatch(line); m != nil {
			at = m[1]
		}
		if m := hunk.FindStringSubmatch(line); m != nil {
			return fmt.Errorf("patch %s: hunk %s does not apply to %s at line %s", name, m[1], at, m[3])
		}
		if strings.Contains(line, "can't find file to patch") {
			return fmt.Errorf("patch %s: the source does not have the file that it changes", name)
		}
	}
	if at == "" {
		return hint.Add(fmt.Errorf("patch %s: %w", name, err), "a patch must be made from the top directory of the source")
	}
	return fmt.Errorf("patch %s: %s: %w", name, at, err)
}
