// This file makes a kernel's configuration, and lets a person edit one.

package step

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"meros/constellations"
	"meros/runner"
	"meros/runner/hint"
	"meros/runner/kernel"
	"meros/stages"
)

// kernelConfig makes the configuration, and checks that every requested option is in it.
func (s *step) kernelConfig(ctx context.Context) error {
	k, err := s.kernelTree()
	if err != nil {
		return err
	}
	objects, err := s.workDir("obj")
	if err != nil {
		return err
	}
	target, err := kernel.TargetFor(s.Params[stages.ParamArch])
	if err != nil {
		return err
	}
	vars := append([]string{"-s"}, target.Variables(s.Params[stages.ParamToolchain], "")...)
	config := filepath.Join(objects, ".config")
	if base := s.Params[stages.ParamBaseConfig]; base != "" {
		goal := map[string]string{"tiny": "tinyconfig"}[base]
		if goal == "" {
			goal = base
		}
		err = named(s.make(ctx, k, objects, s.log, nil, nil, append(vars, goal)...), "make "+goal)
	} else {
		err = copyConfig(s.local(stages.InBaseConfig), config)
	}
	if err != nil {
		return err
	}
	want, err := kernel.ReadWanted(strings.NewReader(s.Params[stages.ParamOptions]))
	if err != nil {
		return err
	}
	if err := kernel.SetOptions(config, want); err != nil {
		return err
	}
	if err := s.make(ctx, k, objects, s.log, nil, nil, append(vars, "olddefconfig")...); err != nil {
		return named(err, "make olddefconfig")
	}
	got, err := kernel.ReadConfigFile(config)
	if err != nil {
		return err
	}
	symbols, err := kernel.ReadSymbols(k.source, target.Source)
	if err != nil {
		return err
	}
	if err := s.refused(kernel.Check(want, got, symbols), symbols); err != nil {
		return err
	}
	return copyFile(config, filepath.Join(s.Out, stages.OutConfig))
}

// named puts the name of the failed program before an error.
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

// kernelMenu lets a person edit a configuration, and writes the changes as a fragment.
// It compares the results of savedefconfig, which leaves out all options that follow
// from others.
func (s *step) kernelMenu(ctx context.Context) error {
	k, err := s.kernelTree()
	if err != nil {
		return err
	}
	objects, err := s.workDir("obj")
	if err != nil {
		return err
	}
	config := filepath.Join(objects, ".config")
	if err := copyFile(s.paths(stages.InConfig)[0], config); err != nil {
		return err
	}
	target, err := kernel.TargetFor(s.Params[stages.ParamArch])
	if err != nil {
		return err
	}
	vars := append([]string{"-s"}, target.Variables(s.Params[stages.ParamToolchain], "")...)
	chosen := func() (kernel.Config, error) {
		if err := s.make(ctx, k, objects, os.Stderr, nil, nil, append(vars, "savedefconfig")...); err != nil {
			return nil, named(err, "make savedefconfig")
		}
		return kernel.ReadConfigFile(filepath.Join(objects, "defconfig"))
	}
	before, err := chosen()
	if err != nil {
		return err
	}
	terminal := runner.Stdio{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if err := s.makeWith(ctx, k, objects, terminal, nil, []string{"TERM=" + s.Hints[stages.HintTerm]}, append(vars, s.Params[stages.ParamMenu])...); err != nil {
		return named(err, "make "+s.Params[stages.ParamMenu])
	}
	after, err := chosen()
	if err != nil {
		return err
	}
	final, err := kernel.ReadConfigFile(config)
	if err != nil {
		return err
	}
	return s.output(stages.OutFragment, func(f *os.File) error {
		for _, change := range kernel.Diff(before, after) {
			// An option that is no longer in the list may still be on by default.
			if _, err := fmt.Fprintln(f, constellations.Option{Name: change.Name, Value: final.Value(change.Name)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// refused returns the error for options that the kernel did not accept. If only meros'
// own fragments request an option, refused notes it in the log instead: other versions
// of the kernel have other options.
func (s *step) refused(all []kernel.Refusal, symbols *kernel.Symbols) error {
	var origins map[string]string
	if err := json.Unmarshal([]byte(s.Hints[stages.HintOrigins]), &origins); err != nil {
		return err
	}
	var lines, hints []string
	for _, r := range all {
		text := fmt.Sprintf("%s: CONFIG_%s=%s was asked for, but it is %s", origins[r.Name], r.Name, r.Want, r.Got)
		if r.Unknown {
			text = fmt.Sprintf("%s: this kernel has no option CONFIG_%s", origins[r.Name], r.Name)
		}
		for _, w := range r.Why {
			text += "; " + w
		}
		if strings.HasPrefix(origins[r.Name], "meros' own ") {
			fmt.Fprintln(s.log, "note:", text)
			continue
		}
		lines = append(lines, text)
		if near := constellations.Nearest(r.Name, symbols.Names()); r.Unknown && near != "" {
			hints = append(hints, fmt.Sprintf("did you mean CONFIG_%s instead of CONFIG_%s?", near, r.Name))
		}
	}
	if len(lines) == 0 {
		return nil
	}
	err := errors.New(strings.Join(lines, "\n"))
	if len(hints) > 0 {
		return hint.Add(err, "%s", strings.Join(hints, "\n"))
	}
	return err
}
