// This file writes the layer that makes a machine different from others: its name,
// networks, user and mounts.

package step

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"

	"meros/runner/guest"
	"meros/runner/layer"
	"meros/stages"
)

// personalize writes the files, and merges them with those of the layers below.
func (s *step) personalize(ctx context.Context) error {
	var p stages.Personality
	if err := json.Unmarshal([]byte(s.Params[stages.ParamMachine]), &p); err != nil {
		return err
	}
	var interfaces []guest.Interface
	for _, i := range p.Interfaces {
		interfaces = append(interfaces, guest.Interface(i))
	}
	accounts, err := s.accounts()
	if err != nil {
		return err
	}
	network, shell := guest.Network, "/bin/bash"
	if p.System == "alpine" {
		network, shell = guest.Interfaces, "/bin/sh"
	}
	if p.Base {
		shell = accounts.Shell()
	}
	files := append(accounts.Name(p.Hostname, p.Domain, p.Hosts), network(interfaces)...)
	if len(p.Resolvers) > 0 {
		files = append(files, guest.Resolver(p.Domain, p.Resolvers))
	}
	if p.Modules { // Alpine's /lib and /usr/lib are two directories
		files = append(files, guest.File{Path: "lib/modules", Link: "../usr/lib/modules"})
	}
	var mounts []guest.Mount
	for _, m := range p.Mounts {
		mounts = append(mounts, guest.Mount(m))
	}
	files = append(files, accounts.Fstab(mounts)...)
	if p.User != "" {
		uid, gid, home, err := accounts.AddUser(p.User, shell, s.epoch().Unix()/86400)
		if err != nil {
			return err
		}
		files = append(files, accounts.Files(uid, gid, home)...)
	}
	var base guest.Describe
	if known := s.paths(stages.InDirectories); len(known) > 0 {
		f, err := os.Open(known[0])
		if err != nil {
			return err
		}
		base, err = guest.ReadDirectories(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	} else if below := s.paths(stages.InLower); len(below) > 0 {
		tree, err := s.lower(below)
		if err != nil {
			return err
		}
		root, err := os.OpenRoot(tree)
		if err != nil {
			return err
		}
		defer root.Close()
		base = describedBy(root)
	}
	return s.output(stages.OutLayer, func(f *os.File) error { return guest.WriteLayer(f, files, s.epoch(), base) })
}

// describedBy returns a function that describes a file of the first tree that has it.
func describedBy(trees ...*os.Root) guest.Describe {
	return func(name string) (h *tar.Header, err error) {
		for _, t := range trees {
			if h, err = layer.Describe(t, name); !errors.Is(err, fs.ErrNotExist) {
				return h, err
			}
		}
		return nil, err
	}
}

// outputDirectories writes modes and owners of the directories of trees, the uppermost
// first, as the output "directories".
func (s *step) outputDirectories(trees ...string) error {
	var roots []*os.Root
	accounts := make(guest.Accounts)
	for _, t := range trees {
		root, err := os.OpenRoot(t)
		if err != nil {
			return err
		}
		defer root.Close()
		roots = append(roots, root)
		below, err := guest.ReadAccounts(t)
		if err != nil {
			return err
		}
		maps.Copy(below, accounts)
		accounts = below
	}
	return s.output(stages.OutDirectories, func(f *os.File) error {
		return guest.WriteDirectories(f, describedBy(roots...), accounts.Homes(), s.epoch())
	})
}

// accounts returns the accounts of the layers below.
func (s *step) accounts() (guest.Accounts, error) {
	a := make(guest.Accounts)
	for _, file := range s.paths(stages.InAccounts) {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		err = errors.Join(a.Read(f), f.Close())
		if err != nil {
			return nil, err
		}
	}
	return a, nil
}
