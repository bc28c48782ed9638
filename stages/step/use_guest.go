// This file has a machine's own kernel read and write the file system of a foreign
// image.

package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"meros/runner/image"
	"meros/runner/initrd"
	"meros/runner/layer"
	"meros/runner/qemu"
	"meros/stages"
)

// useInGuest has a kernel find the root file system, read it and make it larger.
func (s *step) useInGuest(ctx context.Context, disk *image.ForeignDisk, candidates []image.Layout) (*image.Layout, error) {
	base := filepath.Join(s.Work, "base.qcow2")
	if err := writeFile(base, disk.Write); err != nil {
		return nil, err
	}
	r, dir, err := s.system(ctx, "read", base, candidates, initrd.System{Read: true}, nil)
	if err != nil {
		return nil, err
	}
	l := candidates[r.Device]
	l.Flags = r.Flags
	grown, err := disk.Grow(ctx, &l, r.Free, image.Usable)
	if err != nil {
		return nil, err
	}
	if !grown {
		if err := s.output(stages.OutImage, disk.Write); err != nil {
			return nil, err
		}
	} else if err := s.growInGuest(ctx, disk, l); err != nil {
		return nil, err
	}
	// The guest's kernel has read a file system that nobody has checked. So its layer
	// is not trusted either.
	tree := filepath.Join(s.Work, "tree")
	if err := layer.Unpack(ctx, filepath.Join(dir, guestTree), tree); err != nil {
		return nil, fmt.Errorf("root file system as the machine reads it: %w", err)
	}
	return &l, s.outputSystem(ctx, tree, layer.Omission{What: "device nodes, access lists and labels"}) // the guest leaves them out
}

// growInGuest makes the file system as large as its partition.
func (s *step) growInGuest(ctx context.Context, disk *image.ForeignDisk, l image.Layout) error {
	base := filepath.Join(s.Work, "grown.qcow2")
	if err := writeFile(base, disk.Write); err != nil {
		return err
	}
	_, dir, err := s.system(ctx, "grow", base, []image.Layout{l}, initrd.System{Grow: true}, nil)
	if err != nil {
		return err
	}
	return s.output(stages.OutImage, func(f *os.File) error {
		return image.Flatten(ctx, f, []string{filepath.Join(dir, guestDisk), base})
	})
}

// deltaInGuest has a kernel apply layers to a base's file system.
func (s *step) deltaInGuest(ctx context.Context, l *image.Layout) error {
	base := s.All(stages.InBase)[0]
	layers := func(w io.Writer) error {
		for _, upper := range s.paths(stages.InUpper) {
			if err := layer.Capture(ctx, w, upper, s.epoch(), false); err != nil {
				return err
			}
		}
		return nil
	}
	r, dir, err := s.system(ctx, "apply", base.Path, []image.Layout{*l}, initrd.System{Layers: len(s.paths(stages.InUpper))}, layers)
	if err != nil && r.Full {
		return s.noSpaceInGuest(base.Path, r)
	}
	if err != nil {
		return err
	}
	return s.output(stages.OutImage, func(f *os.File) error {
		return image.Merge(f, []string{filepath.Join(dir, guestDisk)}, base.Path, imageName(base))
	})
}

// noSpaceInGuest returns the error for layers that did not fit into the file system. It
// says how much space they need.
func (s *step) noSpaceInGuest(base string, r initrd.SystemResult) error {
	e := &image.NoSpaceError{FreeBytes: r.Free}
	for _, upper := range s.paths(stages.InUpper) {
		bytes, err := image.TreeBytes(upper)
		if err != nil {
			return err
		}
		e.Bytes += bytes
	}
	size, err := image.VirtualSize(base)
	if err != nil {
		return err
	}
	e.MoreThan(size)
	return e
}

// subvolume matches the mount options that a guest may return. They become a word of a
// kernel's command line.
var subvolume = regexp.MustCompile(`^(subvol=[A-Za-z0-9@._-]+)?$`)

// system runs a guest on an overlay over an image, with the layers on a further disk. It
// returns the directory that the guest ran in.
func (s *step) system(ctx context.Context, name, base string, candidates []image.Layout, what initrd.System, layers func(io.Writer) error) (r initrd.SystemResult, dir string, err error) {
	if dir, err = s.workDir(name); err != nil {
		return r, "", err
	}
	if _, err := guestOverlay(dir, base); err != nil {
		return r, "", err
	}
	for _, l := range candidates {
		what.Devices = append(what.Devices, initrd.Device{Path: l.Device(), Kind: l.Driver()})
	}
	if err := initrd.WriteSystem(filepath.Join(dir, guestInitrd), s.paths(stages.InInitrd)[0], what); err != nil {
		return r, "", err
	}
	q := s.guestMachine(stages.GuestMemory, 1, []string{guestDisk, base})
	if what.Read {
		q.Ports = append(q.Ports, qemu.Port{Name: initrd.SystemTreePort, File: guestTree})
	}
	if layers != nil {
		if err := s.layersDisk(filepath.Join(dir, guestLayers), layers); err != nil {
			return r, "", err
		}
		q.Disks = append(q.Disks, []string{guestLayers})
	}
	err = s.runGuest(ctx, dir, q, s.log, &r)
	switch {
	case r.Error != "":
		return r, "", guestError(r.Error, r.Hint) // the rest of the result may be valid
	case err != nil:
		return r, "", err
	case r.Device < 0 || r.Device >= len(candidates) || r.Free < 0 || !subvolume.MatchString(r.Flags):
		return r, "", fmt.Errorf("the machine returned an invalid result: %+v", r)
	}
	return r, dir, nil
}

// layersDisk writes layers to a disk, one after the other.
func (s *step) layersDisk(file string, layers func(io.Writer) error) error {
	raw, err := os.Create(filepath.Join(s.Work, "layers.raw"))
	if err != nil {
		return err
	}
	defer raw.Close()
	if err := layers(raw); err != nil {
		return err
	}
	return writeFile(file, func(f *os.File) error { return image.FromRaw(f, raw) })
}

// writeFile creates a file.
func writeFile(file string, write func(*os.File) error) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
