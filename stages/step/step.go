// Package step carries out the stages that package stages plans: one file for
// each stage, of the same name. Its code runs as "meros stage FILE", in the
// sandbox of one node, and knows nothing of the rest of the plan.
package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/graph"
	"meros/runner"
	"meros/runner/guest"
	"meros/runner/hint"
	"meros/runner/layer"
	"meros/stages"
)

// step is one run of "meros stage FILE": the inside of a stage, in its
// sandbox.
type step struct {
	graph.Step
	log    io.Writer
	looked bool // the user has looked at a failure
}

// steps are the stages that meros itself carries out, by name.
var steps = map[string]func(*step, context.Context) error{
	"fetch":       (*step).fetch,
	"bootstrap":   (*step).bootstrap,
	"alpine":      (*step).alpine,
	"apk":         (*step).apk,
	"packages":    (*step).packages,
	"overlay":     (*step).overlay,
	"hooks":       (*step).hooks,
	"hooks-vm":    (*step).hooksVM,
	"personalize": (*step).personalize,
	"pack":        (*step).pack,
	"delta":       (*step).delta,
	"disk":        (*step).disk,
	"format":      (*step).format,
	"convert":     (*step).convert,
	"use":         (*step).use,
	"oci":         (*step).oci,
	"export":      (*step).export,
	"kernel":      (*step).kernel,
	"initrd":      (*step).initrd,
	"boot":        (*step).boot,

	"kernel-source":  (*step).kernelSource,
	"kernel-patch":   (*step).kernelPatch,
	"kernel-config":  (*step).kernelConfig,
	"kernel-compile": (*step).kernelCompile,
	"kernel-menu":    (*step).kernelMenu,
	"copy":           (*step).copy,
}

// Main carries out the stage that a file describes. If it fails, Main sends the
// error to the process that started it.
func Main(ctx context.Context, file string) error {
	s := &step{log: os.Stdout}
	err := s.read(file)
	if err == nil {
		err = s.run(ctx)
	}
	if err != nil {
		s.fail(os.Stdout, err)
	}
	return err
}

// read reads the file.
func (s *step) read(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &s.Step); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if steps[s.Stage] == nil {
		return fmt.Errorf("%s: no such stage: %q", file, s.Stage)
	}
	return nil
}

// run does the work. If the user wants it, a shell opens where the step fails.
func (s *step) run(ctx context.Context) error {
	shell := s.Hints[stages.HintShell] != ""
	if shell {
		s.log = struct{ io.Writer }{os.Stdout} // foreign programs get a pipe, not the terminal
	}
	err := s.named(steps[s.Stage](s, ctx))
	if err != nil && shell && !s.looked {
		fmt.Fprintf(s.log, "\n%v\nThis is the inside of the stage %s; what it is made of is in /in, what it made in %s. Leave it with exit.\n", err, s.Stage, s.Work)
		unix.IoctlSetInt(0, unix.TCFLSH, unix.TCIFLUSH) // nothing but what the user types from now on
		cmd := exec.Command("/bin/sh", "-i")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
		cmd.Run() // its status is the user's
	}
	return err
}

// look opens a shell where a process has failed.
func (s *step) look(ctx context.Context, spec runner.Spec, failure error) {
	s.looked = true
	fmt.Fprintf(s.log, "\n%v\nThis is the system in which %s failed. Leave it with exit; nothing that is done here is kept.\n", failure, spec.Argv[0])
	spec.Argv, spec.Timeout, spec.Terminal = []string{"/bin/sh", "-i"}, 0, true
	spec.Env = append(slices.Clone(spec.Env), "TERM="+os.Getenv("TERM"), "PS1=(meros) # ")
	if err := runner.Run(ctx, spec, runner.Stdio{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}); err != nil && !errors.As(err, new(*runner.ExitError)) {
		fmt.Fprintf(s.log, "no shell could be started there: %v\n", err)
	}
}

// named puts what an input is in the place of where the sandbox has it.
func (s *step) named(err error) error {
	if err == nil {
		return nil
	}
	replace := func(text string) string {
		for _, in := range append(s.Inputs, s.Locals...) {
			for _, end := range []string{":", "/"} {
				text = strings.ReplaceAll(text, in.Path+end, "("+in.From+")"+end)
			}
		}
		return text
	}
	text := errors.New(replace(err.Error()))
	if h := hint.Of(err); h != "" {
		return hint.Add(text, "%s", replace(h))
	}
	return text
}

// epoch is the time that stands for now.
func (s *step) epoch() time.Time {
	n, _ := strconv.ParseInt(s.Params[stages.ParamEpoch], 10, 64)
	return time.Unix(n, 0)
}

// paths are the paths of the inputs called name.
func (s *step) paths(name string) []string {
	var ps []string
	for _, in := range s.All(name) {
		ps = append(ps, in.Path)
	}
	return ps
}

// local is the path of a local input, or "" if there is none of that name.
func (s *step) local(name string) string {
	for _, l := range s.Locals {
		if l.Name == name {
			return l.Path
		}
	}
	return ""
}

// given is the path of an input that is a local one or the output of another
// node.
func (s *step) given(name string) string {
	if file := s.local(name); file != "" {
		return file
	}
	return s.paths(name)[0]
}

// workDir makes a directory of that name to work in.
func (s *step) workDir(name string) (string, error) {
	dir := filepath.Join(s.Work, name)
	return dir, os.Mkdir(dir, 0o755)
}

// output creates an output's file.
func (s *step) output(name string, write func(*os.File) error) error {
	f, err := os.Create(filepath.Join(s.Out, name))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	return f.Close()
}

// outputLayer captures the tree in dir as the outputs "layer" and "accounts".
func (s *step) outputLayer(ctx context.Context, dir string, settle bool) error {
	err := s.outputSparse(stages.OutLayer, func(w io.Writer) error { return layer.Capture(ctx, w, dir, s.epoch(), settle) })
	if err != nil {
		return err
	}
	return s.outputAccounts(dir)
}

func (s *step) outputSparse(name string, write func(io.Writer) error) error {
	return s.output(name, func(f *os.File) error {
		w := layer.NewSparseWriter(f)
		if err := write(w); err != nil {
			return err
		}
		return w.Close()
	})
}

func (s *step) outputAccounts(tree string) error {
	return s.output(stages.OutAccounts, func(f *os.File) error { return guest.WriteAccounts(f, tree) })
}

// lower shows unpacked layers, the lowest first, as one directory that cannot
// be written to.
func (s *step) lower(layers []string) (string, error) {
	layers, err := topmost(layers)
	if err != nil {
		return "", err
	}
	if len(layers) == 1 {
		return layers[0], nil
	}
	dir, err := s.workDir("lower")
	if err != nil {
		return "", err
	}
	return dir, mountOverlay(dir, layers, "", "")
}

// writable shows unpacked layers as one directory, root, in which changes go
// to the directory upper.
func (s *step) writable(layers []string) (root, upper string, err error) {
	dirs := make(map[string]string)
	for _, name := range []string{"root", "upper", "scratch"} {
		if dirs[name], err = s.workDir(name); err != nil {
			return "", "", err
		}
	}
	return dirs["root"], dirs["upper"], mountOverlay(dirs["root"], layers, dirs["upper"], dirs["scratch"])
}

// inode tells files apart, whatever their names are.
type inode struct{ dev, ino uint64 }

// topmost leaves each layer only where it is last, which shows the same: what it
// has, and what it hides, counts there anyway. The kernel takes none twice.
func topmost(layers []string) ([]string, error) {
	var left []string
	last := make(map[inode]bool)
	for _, l := range slices.Backward(layers) {
		var st unix.Stat_t
		if err := unix.Stat(l, &st); err != nil {
			return nil, fmt.Errorf("layer %s: %w", l, err)
		}
		if id := (inode{st.Dev, st.Ino}); !last[id] {
			last[id] = true
			left = append(left, l)
		}
	}
	slices.Reverse(left)
	return left, nil
}

// mountOverlay mounts layers, the lowest first. userxattr is what a user
// namespace can have (kernel document filesystems/overlayfs); it is used by
// root as well, so that both give the same.
func mountOverlay(target string, layers []string, upper, work string) error {
	layers, err := topmost(layers)
	if err != nil {
		return err
	}
	if len(layers) == 1 && upper == "" { // which is no overlay
		if err := unix.Mount(layers[0], target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount a layer: %w", err)
		}
		return nil
	}
	top := slices.Clone(layers)
	slices.Reverse(top)
	options := "userxattr,lowerdir=" + strings.Join(top, ":")
	if upper != "" {
		options += ",upperdir=" + upper + ",workdir=" + work
	}
	if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay of %d layers: %w (is the overlay file system available? modprobe overlay)", len(layers), err)
	}
	return nil
}

// environment is that of what runs in a system that is being made.
func (s *step) environment() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TZ=UTC", "TERM=dumb",
		"DEBIAN_FRONTEND=noninteractive", "SOURCE_DATE_EPOCH=" + s.Params[stages.ParamEpoch],
	}
}

// inside runs foreign code in root, without a network unless one is asked
// for.
func (s *step) inside(ctx context.Context, root string, argv, env []string, more func(*runner.Spec)) error {
	spec := runner.Spec{
		Argv: argv, Root: root, Hostname: "localhost", Foreign: s.Params[stages.ParamForeign], Env: append(s.environment(), env...),
	}
	if more != nil {
		more(&spec)
	}
	err := runner.Run(ctx, spec, runner.Stdio{Stdout: s.log, Stderr: s.log})
	if err != nil && s.Hints[stages.HintShell] != "" && ctx.Err() == nil {
		s.look(ctx, spec, err)
	}
	return err
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
