// This file compiles a kernel.

package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"meros/runner"
	"meros/runner/hint"
	"meros/runner/kernel"
	"meros/runner/layer"
	"meros/stages"
)

// kernelTree holds two directories: the system with the compiler, which is writable
// until the step ends, and the patched source.
type kernelTree struct{ root, source string }

// kernelTree mounts both.
func (s *step) kernelTree() (k kernelTree, err error) {
	if k.root, _, err = s.writable(s.paths(stages.InTools)); err != nil {
		return k, err
	}
	layers := s.paths(stages.InSource)
	if k.source = layers[0]; len(layers) > 1 {
		if k.source, err = s.workDir("source"); err == nil {
			err = mountOverlay(k.source, layers, "", "")
		}
	}
	return k, err
}

// A kernel is compiled at these paths on every host: the compiler puts them into its
// results.
const (
	sourceDir = "/src"
	objectDir = "/obj"
)

// make runs make(1) for the kernel in k, with its objects in the directory objects.
func (s *step) make(ctx context.Context, k kernelTree, objects string, out io.Writer, more []runner.Mount, env []string, args ...string) error {
	return s.makeWith(ctx, k, objects, runner.Stdio{Stdout: out, Stderr: out}, more, env, args...)
}

// makeWith is make with all three standard streams.
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

// compilerCache is the directory of the compiler's cache, in the step's sandbox and in
// the compiler's. It is in no key: it only makes a compilation faster.
const compilerCache = "/ccache"

// kernelCompile compiles the kernel, and its modules and headers if it has any.
func (s *step) kernelCompile(ctx context.Context) error {
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
	if err := replaceConfig(filepath.Join(objects, ".config"), s.paths(stages.InConfig)[0]); err != nil {
		return err
	}
	target, err := kernel.TargetFor(s.Params[stages.ParamArch])
	if err != nil {
		return err
	}
	args := append([]string{"-j" + strconv.Itoa(s.CPU), target.Image}, target.Variables(s.Params[stages.ParamToolchain], "ccache")...)
	config, err := kernel.ReadConfigFile(filepath.Join(objects, ".config"))
	if err != nil {
		return err
	}
	modules, headers := config.Value("MODULES") == "y", s.Params[stages.ParamHeaders] != ""
	if headers && !modules {
		return hint.Add(errors.New("headers are for compiling modules, but this kernel loads none"), "set CONFIG_MODULES=y in a fragment, or remove `headers`")
	}
	if modules {
		args = append(args, "modules")
	}
	if err := s.compile(ctx, k, objects, args); err != nil {
		return err
	}
	for output, file := range map[string]string{stages.OutKernel: target.File, stages.OutRelease: "include/config/kernel.release", stages.OutSystemMap: "System.map", stages.OutVmlinux: "vmlinux"} {
		for _, o := range s.Outputs {
			if o == output {
				if err := copyFile(filepath.Join(objects, file), filepath.Join(s.Out, output)); err != nil {
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
	if headers {
		if err := installHeaders(k, objects, tree, target); err != nil {
			return err
		}
	}
	if err := s.outputSparse(stages.OutLayer, func(w io.Writer) error { return layer.Capture(ctx, w, tree, sourceTime, false) }); err != nil {
		return err
	}
	return o.save()
}

// replaceConfig copies a configuration to the place where make looks for it. The copy is
// newer than all objects of an earlier configuration.
func replaceConfig(to, from string) error {
	if err := os.Remove(to); err != nil && !os.IsNotExist(err) {
		return err
	}
	return copyFile(from, to)
}

// compile runs make and reports progress. It expects as many objects as the last kernel
// from the same place had.
func (s *step) compile(ctx context.Context, k kernelTree, objects string, args []string) error {
	counter := path.Join(compilerCache, "objects-"+s.Params[stages.ParamArch])
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
		if cause := w.Failure(); cause != nil {
			return fmt.Errorf("%w; make: %w", cause, err)
		}
		return fmt.Errorf("make: %w", err)
	}
	fmt.Fprintln(s.log, w.Summary())
	os.WriteFile(counter, []byte(strconv.Itoa(w.Objects())+"\n"), 0o644) // only an estimate for the next kernel, errors do not matter
	return nil
}

// installModules fills tree with /usr/lib/modules.
func (s *step) installModules(ctx context.Context, k kernelTree, objects, tree string, target kernel.Target) error {
	if err := os.RemoveAll(filepath.Join(objects, "modules")); err != nil { // of an earlier kernel
		return err
	}
	args := append([]string{"-s", "modules_install", "INSTALL_MOD_PATH=" + objectDir + "/modules", "INSTALL_MOD_STRIP=1"}, target.Variables(s.Params[stages.ParamToolchain], "")...)
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
		for _, link := range []string{"build", "source"} { // they point into the sandbox
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
