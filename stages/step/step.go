// Package step carries out the stages that package stages plans. Each stage has a file
// of the same name in both. The code runs as "meros stage FILE" in the sandbox of one
// node, and knows nothing of the rest of the plan.
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

// step is one run of "meros stage FILE" in its sandbox.
type step struct {
	graph.Step
	log   io.Writer
	shell bool // the user had a shell after the failure
}

// steps lists the functions that carry out stages, by the name of the stage.
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

// read reads the description of the stage.
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
	wanted := s.Hints[stages.HintShell] != ""
	if wanted {
		s.log = struct{ io.Writer }{os.Stdout} // foreign programs get a pipe, not the terminal
	}
	err := s.nameInputs(steps[s.Stage](s, ctx))
	if err != nil && wanted && !s.shell {
		fmt.Fprintf(s.log, "\n%s\nThis is the sandbox of the stage %s: its inputs are in /in, its work is in %s. `exit` leaves it.\n", hint.Lines(err), s.Stage, s.Work)
		unix.IoctlSetInt(0, unix.TCFLSH, unix.TCIFLUSH) // drop what the user typed before
		cmd := exec.Command("/bin/sh", "-i")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
		cmd.Run() // the status of the user's shell does not matter
	}
	return err
}

// openShell opens a shell in the system in which a process has failed.
func (s *step) openShell(ctx context.Context, spec runner.Spec, failure error) {
	s.shell = true
	fmt.Fprintf(s.log, "\n%s\nThis is the system in which %s failed. `exit` leaves it and discards all changes.\n", hint.Lines(failure), spec.Argv[0])
	spec.Argv, spec.Timeout, spec.Terminal = []string{"/bin/sh", "-i"}, 0, true
	spec.Env = append(slices.Clone(spec.Env), "TERM="+os.Getenv("TERM"), "PS1=(meros) # ")
	if err := runner.Run(ctx, spec, runner.Stdio{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}); err != nil && !errors.As(err, new(*runner.ExitError)) {
		fmt.Fprintf(s.log, "cannot start a shell there: %s\n", hint.Lines(err))
	}
}

// nameInputs replaces the paths of inputs in the sandbox by the names of their nodes.
func (s *step) nameInputs(err error) error {
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

// epoch returns the time that stands for now.
func (s *step) epoch() time.Time {
	n, _ := strconv.ParseInt(s.Params[stages.ParamEpoch], 10, 64)
	return time.Unix(n, 0)
}

// paths returns the paths of the inputs called name.
func (s *step) paths(name string) []string {
	var ps []string
	for _, in := range s.All(name) {
		ps = append(ps, in.Path)
	}
	return ps
}

// local returns the path of a local input, or "" if there is none of that name.
func (s *step) local(name string) string {
	for _, l := range s.Locals {
		if l.Name == name {
			return l.Path
		}
	}
	return ""
}

// given returns the path of an input that is either a local one or the output of
// another node.
func (s *step) given(name string) string {
	if file := s.local(name); file != "" {
		return file
	}
	return s.paths(name)[0]
}

// workDir makes a work directory of that name.
func (s *step) workDir(name string) (string, error) {
	dir := filepath.Join(s.Work, name)
	return dir, os.Mkdir(dir, 0o755)
}

// output creates the file of an output.
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

// outputSparse creates the file of an output, with holes where it is zero.
func (s *step) outputSparse(name string, write func(io.Writer) error) error {
	return s.output(name, func(f *os.File) error {
		w := layer.NewSparseWriter(f)
		if err := write(w); err != nil {
			return err
		}
		return w.Close()
	})
}

// outputAccounts writes the users and groups of a tree as the output "accounts".
func (s *step) outputAccounts(tree string) error {
	return s.output(stages.OutAccounts, func(f *os.File) error { return guest.WriteAccounts(f, tree) })
}

// lower shows unpacked layers, the lowest first, as one read-only directory.
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

// writable shows unpacked layers as one directory, root. Changes in it go to the
// directory upper.
func (s *step) writable(layers []string) (root, upper string, err error) {
	dirs := make(map[string]string)
	for _, name := range []string{"root", "upper", "scratch"} {
		if dirs[name], err = s.workDir(name); err != nil {
			return "", "", err
		}
	}
	return dirs["root"], dirs["upper"], mountOverlay(dirs["root"], layers, dirs["upper"], dirs["scratch"])
}

// inode identifies a file, whatever its name is.
type inode struct{ dev, ino uint64 }

// topmost removes a layer that comes again later: its files, and the files that it
// hides, count at the later place anyway. The kernel refuses a layer that comes twice.
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

// mountOverlay mounts layers, the lowest first. A user namespace needs the option
// userxattr (kernel document filesystems/overlayfs). Root uses it as well, so that both
// give the same result.
func mountOverlay(target string, layers []string, upper, work string) error {
	layers, err := topmost(layers)
	if err != nil {
		return err
	}
	if len(layers) == 1 && upper == "" { // an overlay needs two
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
		return hint.Add(fmt.Errorf("mount an overlay of %d layers: %w", len(layers), err), "if the kernel lacks the overlay file system, `modprobe overlay` may load it")
	}
	return nil
}

// environment returns the environment of programs that run in the system being built.
func (s *step) environment() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TZ=UTC", "TERM=dumb",
		"DEBIAN_FRONTEND=noninteractive", "SOURCE_DATE_EPOCH=" + s.Params[stages.ParamEpoch],
	}
}

// runForeign runs foreign code in root. It has no network unless more adds one.
func (s *step) runForeign(ctx context.Context, root string, argv, env []string, more func(*runner.Spec)) error {
	spec := runner.Spec{
		Argv: argv, Root: root, Hostname: "localhost", Foreign: s.Params[stages.ParamForeign], Env: append(s.environment(), env...),
	}
	if more != nil {
		more(&spec)
	}
	err := runner.Run(ctx, spec, runner.Stdio{Stdout: s.log, Stderr: s.log})
	if err != nil && s.Hints[stages.HintShell] != "" && ctx.Err() == nil {
		s.openShell(ctx, spec, err)
	}
	return err
}

// copyFile copies the content of a file. A rename would not do: the two may be on
// different file systems.
func copyFile(from, to string) error {
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
