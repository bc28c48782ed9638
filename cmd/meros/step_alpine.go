package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"meros/runner/alpine"
	"meros/runner/guest"
)

// stepAlpine unpacks a mini root file system.
func stepAlpine(ctx context.Context, s *step) error {
	tree := filepath.Join(s.Work, "tree")
	if err := unpackRootFS(ctx, s.paths("rootfs")[0], tree, s.Work); err != nil {
		return err
	}
	keys := make(map[string][]byte)
	for _, l := range s.Locals {
		if name, ok := strings.CutPrefix(l.Name, "key "); ok {
			b, err := os.ReadFile(l.Path)
			if err != nil {
				return err
			}
			keys[name] = b
		}
	}
	if err := errors.Join(alpine.Trust(tree, alpineMirror(s.Params["mirror"]), s.Params["branch"], keys), guest.Settle(tree)); err != nil {
		return err
	}
	return s.outputLayer(ctx, tree, true)
}

// stepApk installs packages and what boots the system.
func stepApk(ctx context.Context, s *step) error {
	root, upper, err := s.writable(s.paths("lower"))
	if err != nil {
		return err
	}
	if apks := s.paths("apk"); len(apks) > 0 {
		w := s.watchPackages(len(apks))
		defer w.flush()
		run := apkIn(root, s.Params["foreign"], []string{"SOURCE_DATE_EPOCH=" + s.Params["epoch"]})
		if err := alpine.Install(ctx, run, root, s.Work, apks, strings.Fields(s.Params["names"]), s.log); err != nil {
			return err
		}
	}
	if err := errors.Join(alpine.Setup(root, s.Params["setup"]), guest.Settle(root)); err != nil {
		return err
	}
	return s.outputUpper(ctx, root, upper)
}
