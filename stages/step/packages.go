// This file installs further packages in a Debian or Ubuntu system.

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

// packages installs the packages, without a network.
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

// settle removes the traces of installing packages, such as logs and caches.
func (s *step) settle(root string) error {
	return errors.Join(debian.Clean(root, s.epoch()), guest.Settle(root))
}

// outputUpper captures the changes in a writable root as outputs.
func (s *step) outputUpper(ctx context.Context, root, upper string) error {
	if err := unix.Unmount(root, 0); err != nil {
		return fmt.Errorf("unmount the root: %w", err)
	}
	return s.outputLayer(ctx, upper, false)
}

// policyFile keeps package scripts from starting services, invoke-rc.d(8).
const policyFile = "usr/sbin/policy-rc.d"

// forbidServices keeps package scripts from starting daemons, unless the system has a
// policy of its own. The caller calls remove afterwards.
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
		return func() error { return nil }, nil // without the directory, no script asks for the policy
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
