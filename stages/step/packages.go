package step

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"meros/runner/debian"
	"meros/runner/guest"
	"meros/stages"
)

func (s *step) packages(ctx context.Context) error {
	root, upper, err := s.writable(s.paths(stages.InLower))
	if err != nil {
		return err
	}
	remove, err := forbidServices(root)
	if err != nil {
		return err
	}
	w := s.watchPackages(2 * len(s.paths(stages.InDeb)))
	defer w.flush()
	err = debian.Install(ctx, debian.InstallOptions{
		Root: root, Debs: s.paths(stages.InDeb), Names: strings.Fields(s.Params[stages.ParamNames]), Epoch: s.epoch(), Log: s.log,
		Run: s.runIn(root),
	})
	if err != nil {
		return err
	}
	if err := remove(); err != nil {
		return err
	}
	if err := s.settle(root); err != nil {
		return err
	}
	return s.outputUpper(ctx, root, upper)
}

// settle removes what installing packages leaves behind.
func (s *step) settle(root string) error {
	return errors.Join(debian.Clean(root, s.epoch()), guest.Settle(root))
}

// outputUpper captures what was changed in a writable root.
func (s *step) outputUpper(ctx context.Context, root, upper string) error {
	if err := unix.Unmount(root, 0); err != nil {
		return fmt.Errorf("unmount the root: %w", err)
	}
	return s.outputLayer(ctx, upper, false)
}

// policyFile is what keeps package scripts from starting services,
// invoke-rc.d(8).
const policyFile = "usr/sbin/policy-rc.d"

// forbidServices keeps hooks that install packages from starting daemons, as
// long as the system has no policy of its own.
func forbidServices(root string) (remove func() error, err error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if _, err := r.Lstat(policyFile); err == nil {
		return func() error { return nil }, nil
	}
	f, err := r.OpenFile(policyFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return func() error { return nil }, nil // no such directory: nothing that would ask
	}
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	return func() error {
		r, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		defer r.Close()
		if err := r.Remove(policyFile); err != nil && !os.IsNotExist(err) {
			return err
		}
		return nil
	}, errors.Join(err, f.Chmod(0o755), f.Close())
}
