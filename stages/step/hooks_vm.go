// This file runs hooks in the booted machine, and keeps the changed disk.

package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"meros/graph"
	"meros/runner/guest"
	"meros/runner/hint"
	"meros/runner/image"
	"meros/runner/initrd"
	"meros/runner/qemu"
	"meros/stages"
)

// aroundHooks prepares a system for hooks, wherever they run. The function that it
// returns cleans up after them.
func aroundHooks(root string) (func() error, error) {
	remove, err := forbidServices(root)
	if err != nil {
		return nil, err
	}
	return func() error { return errors.Join(remove(), guest.Settle(root)) }, nil
}

// hooksVM boots the machine on an overlay over its image. The initrd runs the hooks.
// The overlay then holds their changes.
func (s *step) hooksVM(ctx context.Context) error {
	dir, err := s.workDir("vm")
	if err != nil {
		return err
	}
	images, err := image.Chain(s.paths(stages.InImage)[0], s.paths(stages.InBase)[0])
	if err != nil {
		return err
	}
	disk, err := guestOverlay(dir, images[0])
	if err != nil {
		return err
	}
	if err := s.hooksInitrd(filepath.Join(dir, guestInitrd)); err != nil {
		return err
	}
	q, err := s.hooksMachine(images)
	if err != nil {
		return err
	}
	if err := s.runHooksGuest(ctx, dir, q); err != nil {
		return err
	}
	console, err := readPart(filepath.Join(dir, guestConsole), -1)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Out, stages.OutConsole), console, 0o644); err != nil {
		return err
	}
	return s.output(stages.OutImage, func(out *os.File) error {
		if len(images) == 1 { // it has no base
			return image.Flatten(ctx, out, []string{disk, images[0]})
		}
		base := s.All(stages.InBase)[0]
		return image.Merge(out, []string{disk, images[0]}, base.Path, imageName(base))
	})
}

// hookScripts returns the local inputs that are hooks.
func (s *step) hookScripts() []graph.StepInput {
	var all []graph.StepInput
	for _, l := range s.Locals {
		if l.Name != stages.InKernel {
			all = append(all, l)
		}
	}
	return all
}

// hooksInitrd writes an initrd that runs the hooks.
func (s *step) hooksInitrd(file string) error {
	h := initrd.Hooks{Network: s.Params[stages.ParamNetwork] != "", Env: s.environment()}
	h.Timeout, _ = time.ParseDuration(s.Hints[stages.HintTimeout])
	var files []initrd.File
	for i, hook := range s.hookScripts() {
		b, err := readHook(hook.Name, hook.Path)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%03d-%s", i, filepath.Base(hook.Name))
		files = append(files, initrd.File{Name: name, Mode: 0o755, Data: b})
		h.Names, h.Shown = append(h.Names, name), append(h.Shown, hook.Name)
	}
	return initrd.WriteHooks(file, s.paths(stages.InInitrd)[0], h, files)
}

// hooksMachine returns the machine that the hooks run in.
func (s *step) hooksMachine(images []string) (*qemu.Machine, error) {
	memory, err := strconv.ParseInt(s.Params[stages.ParamMemory], 10, 64)
	if err != nil {
		return nil, err
	}
	cpus, err := strconv.Atoi(s.Params[stages.ParamCPUs])
	if err != nil {
		return nil, err
	}
	q := s.guestMachine(memory, cpus, append([]string{guestDisk}, images...))
	q.Ports = append(q.Ports, qemu.Port{Name: initrd.HooksLogPort, File: "/proc/self/fd/1"})
	if s.Params[stages.ParamNetwork] != "" {
		q.Network.Open, q.Clock = true, "" // with the real time: archives and certificates would be from the future
	}
	layout, err := s.layout()
	if err != nil {
		return nil, err
	}
	if layout != nil {
		q.Append += " " + layout.Arguments()
	}
	return q, nil
}

// runHooksGuest runs the machine and reads the result of the hooks.
func (s *step) runHooksGuest(ctx context.Context, dir string, q *qemu.Machine) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	first := &firstWrite{Writer: s.log, seen: make(chan struct{})}
	go func() {
		select {
		case <-first.seen:
		case <-ctx.Done():
		case <-time.After(stages.BootTimeout):
			stop(fmt.Errorf("the machine did not boot within %v", stages.BootTimeout))
		}
	}()
	if limit, _ := time.ParseDuration(s.Hints[stages.HintTimeout]); limit > 0 {
		all := stages.BootTimeout + time.Duration(len(s.hookScripts()))*(limit+time.Minute)
		t := time.AfterFunc(all, func() {
			stop(hint.Add(fmt.Errorf("the machine did not end within %v", all), "a longer `--timeout` gives its hooks more time"))
		})
		defer t.Stop() // the guest itself stops a hook after its time, unless its kernel hangs
	}
	var r initrd.HooksResult
	err := s.runGuest(ctx, dir, q, first, &r)
	switch {
	case r.Error != "":
		return guestError(r.Error, strings.TrimPrefix(r.Hint+"\n"+s.guestHint(r.Error), "\n"))
	case errors.Is(err, errSilent), err == nil && r.Ran != len(s.hookScripts()):
		return errors.New("the machine ended before its hooks did")
	}
	return err
}

// guestHint returns the next step for the hook that failed in the machine, or "".
func (s *step) guestHint(failure string) string {
	for _, hook := range s.hookScripts() {
		if b, err := readHook(hook.Name, hook.Path); err == nil && strings.HasPrefix(failure, hook.Name+":") {
			return s.installHint(b)
		}
	}
	return ""
}

// firstWrite closes seen when something is written.
type firstWrite struct {
	io.Writer
	seen chan struct{}
}

// Write implements io.Writer.
func (w *firstWrite) Write(p []byte) (int, error) {
	select {
	case <-w.seen:
	default:
		close(w.seen)
	}
	return w.Writer.Write(p)
}
