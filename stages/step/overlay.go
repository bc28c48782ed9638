// This file makes the layer of the files that are copied into a machine.

package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"meros/runner/guest"
	"meros/runner/layer"
	"meros/stages"
)

// overlay composes the layer. The files of the machine win over those of common/.
func (s *step) overlay(ctx context.Context) error {
	base, err := s.lower(s.paths(stages.InLower))
	if err != nil {
		return err
	}
	owners := make(layer.Owners)
	var dirs []string
	for _, prefix := range []string{stages.InCommon, ""} {
		if dir := s.local(prefix + stages.Includes); dir != "" {
			dirs = append(dirs, dir)
		}
		if file := s.local(prefix + stages.Owners); file != "" {
			if err := readOwners(owners, file, base); err != nil {
				return fmt.Errorf("%sowners: %w", prefix, err)
			}
		}
	}
	composed := filepath.Join(s.Work, "composed")
	err = s.outputSparse(stages.OutLayer, func(w io.Writer) error {
		return layer.Compose(ctx, w, dirs, layer.ComposeOptions{Owners: owners, Epoch: s.epoch(), Base: base})
	})
	if err != nil {
		return err
	}
	if err := layer.Unpack(ctx, filepath.Join(s.Out, stages.OutLayer), composed); err != nil {
		return err
	}
	return errors.Join(s.outputAccounts(composed), s.outputDirectories(composed, base))
}

// readOwners reads an owners file. The system below has the accounts that it names.
func readOwners(owners layer.Owners, file, base string) error {
	accounts, err := guest.ReadAccounts(base)
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	more, err := layer.ParseOwners(f, accounts.Lookup)
	for p, o := range more {
		owners[p] = o
	}
	return err
}
