package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
	"meros/runner/debian"
	"meros/runner/kernel"
	"meros/runner/layer"
)

// sourceTime is the time of all files of a kernel's source: make only asks
// whether they are older than what is made of them.
var sourceTime = time.Unix(1, 0)

func stepKernelSource(ctx context.Context, s *step) error {
	dir := filepath.Join(s.Out, "source.tree")
	t, err := kernel.NewTree(dir)
	if err != nil {
		return err
	}
	defer t.Close()
	fromTar := func(r io.Reader) error { return t.FromTar(ctx, r) }
	switch kind := constellations.KernelKind(s.Params["kind"]); kind {
	case constellations.KernelDebian:
		err = debian.ExtractFile(ctx, s.paths("deb")[0], "usr/src/*.tar.*", func(name string, r io.Reader) error {
			return kernel.Decompress(ctx, r, constellations.TarCompression(name), fromTar)
		})
	case constellations.KernelTarball:
		err = s.fromTarball(ctx, fromTar)
	case constellations.KernelGit:
		err = s.fromGit(ctx, t)
	case constellations.KernelDir:
		skip := strings.Fields(s.Params["skip"])
		err = t.FromDir(ctx, s.local("source"), func(name string) bool { return graph.Skipped(name, skip) })
	default:
		err = fmt.Errorf("there are no sources of the kind %q", kind)
	}
	if err == nil {
		err = kernel.CheckSource(dir)
	}
	if err != nil {
		return err
	}
	return s.outputSparse("source", func(w io.Writer) error { return layer.Capture(ctx, w, dir, sourceTime, true) })
}

func (s *step) fromTarball(ctx context.Context, read func(io.Reader) error) error {
	f, err := os.Open(s.paths("tarball")[0])
	if err != nil {
		return err
	}
	defer f.Close()
	return kernel.Decompress(ctx, f, s.Params["compression"], read)
}

// fromGit fetches one commit and no history. Git runs as foreign code: it
// reads what a server sends.
func (s *step) fromGit(ctx context.Context, t *kernel.Tree) error {
	repository, err := s.workDir("git")
	if err != nil {
		return err
	}
	commit, from := s.Params["commit"], s.Hints["url"]
	run := func(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
		spec := runner.Spec{
			Argv: argv, Dir: "/git", Hostname: "localhost", Network: runner.HostNetwork,
			Env: []string{
				"PATH=/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
				"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
			},
			Mounts: []runner.Mount{{Source: repository, Target: "/git", Writable: true}},
		}
		if fi, err := os.Stat(strings.TrimPrefix(from, "file://")); err == nil && fi.IsDir() {
			dir := strings.TrimPrefix(from, "file://")
			spec.Mounts = append(spec.Mounts, runner.Mount{Source: dir, Target: dir})
		}
		return runner.Run(ctx, spec, runner.Stdio{Stdin: stdin, Stdout: stdout, Stderr: s.log})
	}
	if err := run(ctx, nil, s.log, "git", "init", "--quiet", "--bare", "."); err != nil {
		return fmt.Errorf("git init: %w (is git installed?)", err)
	}
	if err := run(ctx, nil, s.log, "git", "fetch", "--quiet", "--depth=1", "--no-tags", from, commit); err != nil {
		return fmt.Errorf("commit %.12s, which %s was when the lock was written, cannot be fetched from %s: git fetch: %w (if the branch was rewritten: meros update %s)", commit, s.Hints["ref"], from, err, s.Hints["constellation"])
	}
	return t.FromGit(ctx, run, commit)
}

// kernelTree is the system of the compiler, writable for as long as the step
// takes, and the source as it is compiled.
type kernelTree struct{ root, source string }

func (s *step) kernelTree() (k kernelTree, err error) {
	if k.root, _, err = s.writable(s.paths("tools")); err != nil {
		return k, err
	}
	layers := s.paths("source")
	if k.source = layers[0]; len(layers) > 1 {
		if k.source, err = s.workDir("source"); err == nil {
			err = mountOverlay(k.source, layers, "", "")
		}
	}
	return k, err
}

// sourceDir and objectDir are where a kernel is compiled, for all hosts the
// same: the paths are in what the compiler makes.
const (
	sourceDir = "/src"
	objectDir = "/obj"
)

// make runs make(1) for the kernel in k, its objects in the directory objects.
func (s *step) make(ctx context.Context, k kernelTree, objects string, out io.Writer, more []runner.Mount, env []string, args ...string) error {
	return s.makeWith(ctx, k, objects, runner.Stdio{Stdout: out, Stderr: out}, more, env, args...)
}

func (s *step) makeWith(ctx context.Context, k kernelTree, objects string, stdio runner.Stdio, more []runner.Mount, env []string, args ...string) error {
	spec := runner.Spec{
		Argv: append([]string{"make", "-C", sourceDir, "O=" + objectDir}, args...), Root: k.root, Hostname: "localhost",
		Env: append([]string{
			"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LC_ALL=C.UTF-8", "TZ=UTC", "TERM=dumb", "LOCALVERSION=",
			"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:01 UTC 1970", "KBUILD_BUILD_USER=meros", "KBUILD_BUILD_HOST=meros", "KBUILD_BUILD_VERSION=1",
		}, env...),
		Mounts: append([]runner.Mount{{Source: k.source, Target: sourceDir}, {Source: objects, Target: objectDir, Writable: true}}, more...),
	}
	return runner.Run(ctx, spec, stdio)
}

// hunk is what patch(1) says of a part that does not apply.
var (
	hunk     = regexp.MustCompile(`^Hunk #(\d+) (FAILED|ignored) at (\d+)`)
	patching = regexp.MustCompile(`^(?:patching|checking) file (.*)$`)
)

// stepKernelPatch applies patches and keeps what they change.
func stepKernelPatch(ctx context.Context, s *step) error {
	tools, _, err := s.writable(s.paths("tools"))
	if err != nil {
		return err
	}
	dirs := make(map[string]string)
	for _, name := range []string{"source", "changes", "overlay"} {
		if dirs[name], err = s.workDir(name); err != nil {
			return err
		}
	}
	if err := mountOverlay(dirs["source"], s.paths("source"), dirs["changes"], dirs["overlay"]); err != nil {
		return err
	}
	for _, p := range s.Locals {
		fmt.Fprintf(s.log, "== %s\n", p.Name)
		if err := s.patch(ctx, tools, dirs["source"], p.Name, p.Path); err != nil {
			return err
		}
	}
	return s.outputSparse("layer", func(w io.Writer) error { return layer.Capture(ctx, w, dirs["changes"], sourceTime, false) })
}

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
			return fmt.Errorf("patch %s: it is for a file that this source does not have", name)
		}
	}
	if at == "" {
		return fmt.Errorf("patch %s: %w (is it a patch, made from the top of the source?)", name, err)
	}
	return fmt.Errorf("patch %s: %s: %w", name, at, err)
}

// stepKernelConfig makes the configuration and checks that all that was asked
// for is in it.
func stepKernelConfig(ctx context.Context, s *step) error {
	k, err := s.kernelTree()
	if err != nil {
		return err
	}
	objects, err := s.workDir("obj")
	if err != nil {
		return err
	}
	target := kernel.Targets[s.Params["arch"]]
	vars := append([]string{"-s"}, target.Variables(s.Params["toolchain"], "")...)
	config := filepath.Join(objects, ".config")
	if base := s.Params["base"]; base != "" {
		goal := map[string]string{"tiny": "tinyconfig"}[base]
		if goal == "" {
			goal = base
		}
		err = named(s.make(ctx, k, objects, s.log, nil, nil, append(vars, goal)...), "make "+goal)
	} else {
		err = copyConfig(s.local("base"), config)
	}
	if err != nil {
		return err
	}
	want, err := kernel.ReadWanted(strings.NewReader(s.Params["options"]))
	if err != nil {
		return err
	}
	if err := kernel.SetOptions(config, want); err != nil {
		return err
	}
	if err := s.make(ctx, k, objects, s.log, nil, nil, append(vars, "olddefconfig")...); err != nil {
		return named(err, "make olddefconfig")
	}
	f, err := os.Open(config)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := kernel.ReadConfig(f)
	if err != nil {
		return err
	}
	symbols, err := kernel.ReadSymbols(k.source, target.SrcArch)
	if err != nil {
		return err
	}
	if err := s.refused(kernel.Check(want, got, symbols), symbols); err != nil {
		return err
	}
	return moveFile(config, filepath.Join(s.Out, "config"))
}

// named names what failed.
func named(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// copyConfig copies a configuration, compressed or not.
func copyConfig(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = f
	magic := make([]byte, 2)
	if n, _ := f.ReadAt(magic, 0); n == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		if r, err = gzip.NewReader(f); err != nil {
			return err
		}
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, r)
	return errors.Join(err, out.Close())
}

// stepKernelMenu lets a person change a configuration, and gives as a fragment
// what differs afterwards of what a person chooses: savedefconfig leaves out
// all that follows from other options.
func stepKernelMenu(ctx context.Context, s *step) error {
	k, err := s.kernelTree()
	if err != nil {
		return err
	}
	objects, err := s.workDir("obj")
	if err != nil {
		return err
	}
	config := filepath.Join(objects, ".config")
	if err := moveFile(s.paths("config")[0], config); err != nil {
		return err
	}
	vars := append([]string{"-s"}, kernel.Targets[s.Params["arch"]].Variables(s.Params["toolchain"], "")...)
	chosen := func() (kernel.Config, error) {
		if err := s.make(ctx, k, objects, os.Stderr, nil, nil, append(vars, "savedefconfig")...); err != nil {
			return nil, named(err, "make savedefconfig")
		}
		f, err := os.Open(filepath.Join(objects, "defconfig"))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return kernel.ReadConfig(f)
	}
	before, err := chosen()
	if err != nil {
		return err
	}
	terminal := runner.Stdio{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if err := s.makeWith(ctx, k, objects, terminal, nil, []string{"TERM=" + s.Hints["term"]}, append(vars, s.Params["menu"])...); err != nil {
		return named(err, "make "+s.Params["menu"])
	}
	after, err := chosen()
	if err != nil {
		return err
	}
	f, err := os.Open(config)
	if err != nil {
		return err
	}
	defer f.Close()
	final, err := kernel.ReadConfig(f)
	if err != nil {
		return err
	}
	return s.output("fragment", func(f *os.File) error {
		for _, change := range kernel.Diff(before, after) {
			// What is no choice any more may still be on, by default.
			if _, err := fmt.Fprintln(f, constellations.Option{Name: change.Name, Value: final.Value(change.Name)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// refused is the error for options that did not take. Those that only meros'
// own fragments ask for are told of in the log: other versions of the kernel
// have other options.
func (s *step) refused(all []kernel.Refusal, symbols *kernel.Symbols) error {
	var origins map[string]string
	if err := json.Unmarshal([]byte(s.Hints["origins"]), &origins); err != nil {
		return err
	}
	var lines []string
	for _, r := range all {
		text := fmt.Sprintf("%s: CONFIG_%s=%s was asked for, but it is %s", origins[r.Name], r.Name, r.Want, r.Got)
		if r.Unknown {
			text = fmt.Sprintf("%s: this kernel has no option CONFIG_%s", origins[r.Name], r.Name)
			if near := constellations.Nearest(r.Name, symbols.Names()); near != "" {
				text += fmt.Sprintf(" (did you mean CONFIG_%s?)", near)
			}
		}
		for _, w := range r.Why {
			text += "; " + w
		}
		if strings.HasPrefix(origins[r.Name], "meros' own ") {
			fmt.Fprintln(s.log, "note:", text)
			continue
		}
		lines = append(lines, text)
	}
	if len(lines) == 0 {
		return nil
	}
	return errors.New(strings.Join(lines, "\n"))
}

// compilerCache is where the compiler's cache is, outside and inside. It is in
// no key: it only makes a compilation faster.
const compilerCache = "/ccache"

func stepKernelCompile(ctx context.Context, s *step) error {
	k, err := s.kernelTree()
	if err != nil {
		return err
	}
	o, err := s.openObjects()
	if err != nil {
		return err
	}
	defer o.close()
	objects := o.dir
	if err := replaceConfig(filepath.Join(objects, ".config"), s.paths("config")[0]); err != nil {
		return err
	}
	target := kernel.Targets[s.Params["arch"]]
	args := append([]string{"-j" + strconv.Itoa(s.CPU), target.Image}, target.Variables(s.Params["toolchain"], "ccache")...)
	f, err := os.Open(filepath.Join(objects, ".config"))
	if err != nil {
		return err
	}
	config, err := kernel.ReadConfig(f)
	f.Close()
	if err != nil {
		return err
	}
	modules := config.Value("MODULES") == "y"
	if modules {
		args = append(args, "modules")
	}
	if err := s.compile(ctx, k, objects, args); err != nil {
		return err
	}
	for output, file := range map[string]string{"kernel": target.File, "release": "include/config/kernel.release", "system-map": "System.map", "vmlinux": "vmlinux"} {
		for _, o := range s.Outputs {
			if o == output {
				if err := moveFile(filepath.Join(objects, file), filepath.Join(s.Out, output)); err != nil {
					return err
				}
			}
		}
	}
	tree, err := s.workDir("layer")
	if err != nil {
		return err
	}
	if modules {
		if err := s.installModules(ctx, k, objects, tree, target); err != nil {
			return err
		}
	}
	if err := s.outputSparse("layer", func(w io.Writer) error { return layer.Capture(ctx, w, tree, sourceTime, false) }); err != nil {
		return err
	}
	return o.keep()
}

// replaceConfig puts a configuration where make looks for it, newer than all
// that was made with another one.
func replaceConfig(to, from string) error {
	if err := os.Remove(to); err != nil && !os.IsNotExist(err) {
		return err
	}
	return moveFile(from, to)
}

// compile runs make and tells how far it is: as many objects as the last
// kernel of this place had are expected.
func (s *step) compile(ctx context.Context, k kernelTree, objects string, args []string) error {
	counter := path.Join(compilerCache, "objects-"+s.Params["arch"])
	expected := int64(0)
	if b, err := os.ReadFile(counter); err == nil {
		expected, _ = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	}
	last := time.Now()
	w := &kernel.Watch{Report: func(n int) {
		if time.Since(last) > 200*time.Millisecond {
			last = time.Now()
			s.report(int64(n), max(expected, int64(n)))
		}
	}}
	env := []string{"CCACHE_DIR=" + compilerCache, "CCACHE_COMPILERCHECK=content", "CCACHE_DEPEND=1", "CCACHE_MAXSIZE=4G", "CCACHE_TEMPDIR=/tmp"}
	cache := []runner.Mount{{Source: compilerCache, Target: compilerCache, Writable: true}}
	err := s.make(ctx, k, objects, io.MultiWriter(s.log, w), cache, env, args...)
	if err != nil {
		if why := w.Failure(); why != "" {
			return fmt.Errorf("%s (make: %w)", why, err)
		}
		return fmt.Errorf("make: %w", err)
	}
	fmt.Fprintln(s.log, w.Summary())
	os.WriteFile(counter, []byte(strconv.Itoa(w.Objects())+"\n"), 0o644) // a guess for next time
	return nil
}

// installModules fills tree with /usr/lib/modules.
func (s *step) installModules(ctx context.Context, k kernelTree, objects, tree string, target kernel.Target) error {
	if err := os.RemoveAll(filepath.Join(objects, "modules")); err != nil { // an earlier kernel's
		return err
	}
	args := append([]string{"-s", "modules_install", "INSTALL_MOD_PATH=" + objectDir + "/modules", "INSTALL_MOD_STRIP=1"}, target.Variables(s.Params["toolchain"], "")...)
	if err := s.make(ctx, k, objects, s.log, nil, nil, args...); err != nil {
		return fmt.Errorf("make modules_install: %w", err)
	}
	from := filepath.Join(objects, "modules", "lib", "modules")
	if _, err := os.Stat(from); os.IsNotExist(err) {
		return nil
	}
	releases, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, r := range releases {
		for _, link := range []string{"build", "source"} { // to directories of the sandbox
			if err := os.Remove(filepath.Join(from, r.Name(), link)); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
	}
	to := filepath.Join(tree, "usr", "lib", "modules")
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.CopyFS(to, os.DirFS(from))
}

// stepCopy gives an output to whoever looks for it outside of the store.
func stepCopy(_ context.Context, s *step) error {
	return moveFile(s.paths("file")[0], filepath.Join(s.Out, "file"))
}
