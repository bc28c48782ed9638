// This file makes one canonical archive of a kernel's source.

package step

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
	"meros/runner/debian"
	"meros/runner/fetch"
	"meros/runner/hint"
	"meros/runner/kernel"
	"meros/runner/layer"
	"meros/stages"
)

// sourceTime is the time of all files of a kernel's source. make only asks whether they
// are older than its results.
var sourceTime = time.Unix(1, 0)

// kernelSource reads the source from where the manifest has it.
func (s *step) kernelSource(ctx context.Context) error {
	dir := filepath.Join(s.Out, stages.OutSource+".tree")
	t, err := kernel.NewTree(dir)
	if err != nil {
		return err
	}
	defer t.Close()
	fromTar := func(r io.Reader) error { return t.FromTar(ctx, r) }
	switch kind := constellations.KernelKind(s.Params[stages.ParamKind]); kind {
	case constellations.KernelDebian:
		err = debian.ExtractFile(ctx, s.paths(stages.InDeb)[0], "usr/src/*.tar.*", func(name string, r io.Reader) error {
			return kernel.Decompress(ctx, r, constellations.TarCompression(name), fromTar)
		})
	case constellations.KernelTarball:
		err = s.fromTarball(ctx, fromTar)
	case constellations.KernelGit:
		err = s.fromGit(ctx, t)
	case constellations.KernelDir:
		skip := strings.Fields(s.Params[stages.ParamSkip])
		err = t.FromDir(ctx, s.local(stages.InSource), func(name string) bool { return graph.Skipped(name, skip) })
	default:
		err = fmt.Errorf("no such kind of source: %q", kind)
	}
	if err == nil {
		err = kernel.CheckSource(dir)
	}
	if err != nil {
		return err
	}
	return s.outputSparse(stages.OutSource, func(w io.Writer) error { return layer.Capture(ctx, w, dir, sourceTime, true) })
}

// fromTarball decompresses the tarball.
func (s *step) fromTarball(ctx context.Context, read func(io.Reader) error) error {
	f, err := os.Open(s.paths(stages.InTarball)[0])
	if err != nil {
		return err
	}
	defer f.Close()
	return kernel.Decompress(ctx, f, s.Params[stages.ParamCompression], read)
}

// fromGit fetches one commit without its history. It reads a repository of this host in
// place. Git reads data from a server, so it runs as foreign code.
func (s *step) fromGit(ctx context.Context, t *kernel.Tree) error {
	repository, err := s.workDir("git")
	if err != nil {
		return err
	}
	commit, from := s.Params[stages.ParamCommit], s.Hints[stages.HintURL]
	local := strings.TrimPrefix(from, "file://")
	if fi, err := os.Stat(local); err != nil || !fi.IsDir() {
		local = ""
	}
	servers, err := fetch.Reached()
	if err != nil {
		return err
	}
	proxy := "" // never the environment's
	if u, err := url.Parse(from); err == nil {
		proxy = servers[fetch.ServerOf(u)].Proxy
	}
	run := func(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
		spec := runner.Spec{
			Argv: argv, Dir: "/git", Hostname: "localhost", Network: runner.HostNetwork,
			Env: []string{
				"PATH=/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
				"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", "GIT_CONFIG_KEY_1=http.proxy", "GIT_CONFIG_VALUE_1=" + proxy,
			},
			Mounts: []runner.Mount{{Source: repository, Target: "/git", Writable: true}},
		}
		for _, name := range []string{"no_proxy", "NO_PROXY"} {
			if v, ok := os.LookupEnv(name); ok {
				spec.Env = append(spec.Env, name+"="+v)
			}
		}
		if local != "" {
			spec.Mounts, spec.Dir = append(spec.Mounts, runner.Mount{Source: local, Target: local}), local
		}
		return runner.Run(ctx, spec, runner.Stdio{Stdin: stdin, Stdout: stdout, Stderr: s.log})
	}
	get := []string{"git", "cat-file", "-e", commit + "^{commit}"}
	if local == "" {
		if err := run(ctx, nil, s.log, "git", "init", "--quiet", "--bare", "."); err != nil {
			return hint.Add(fmt.Errorf("git init: %w", err), "check that git is installed")
		}
		get = []string{"git", "fetch", "--quiet", "--depth=1", "--no-tags", from, commit}
	}
	if err := run(ctx, nil, s.log, get...); err != nil {
		return hint.Add(fmt.Errorf("cannot fetch commit %.12s, which the lock has for %s, from %s: %w", commit, s.Hints[stages.HintRef], from, err),
			"if the branch was rewritten, `meros update %s` pins its tip", s.Hints[stages.HintConstellation])
	}
	return t.FromGit(ctx, run, commit)
}
