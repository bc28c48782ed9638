// This file writes a machine to one file of another format.

package step

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"meros/runner/arch"
	"meros/runner/hint"
	"meros/runner/image"
	"meros/runner/layer"
	"meros/stages"
)

// export writes the disk or the files of a machine.
func (s *step) export(ctx context.Context) error {
	out := filepath.Join(s.Out, stages.OutFile)
	zstd := s.Params[stages.ParamCompress] == "zstd"
	switch format := s.Params[stages.ParamFormat]; format {
	case "qcow2", "raw":
		return s.exportDisk(ctx, out, format, zstd)
	case "oci":
		return s.output(stages.OutFile, func(f *os.File) error { return s.exportOCI(f, zstd) })
	case "tar":
		tree, err := s.merged()
		if err != nil {
			return err
		}
		return s.output(stages.OutFile, func(f *os.File) error {
			return compressed(f, zstd, func(w io.Writer) error { return layer.Capture(ctx, w, tree, s.epoch(), false) })
		})
	case "squashfs":
		argv := []string{"mksquashfs", "TREE", out, "-noappend", "-no-progress", "-quiet", "-all-time", s.Params[stages.ParamEpoch], "-mkfs-time", s.Params[stages.ParamEpoch], "-reproducible"}
		if zstd {
			argv = append(argv, "-comp", "zstd")
		}
		return s.exportTree(ctx, argv, "squashfs-tools")
	case "erofs":
		argv := []string{"mkfs.erofs", "--quiet", "-T", s.Params[stages.ParamEpoch], "-U", "00000000-0000-0000-0000-000000000001", out, "TREE"}
		return s.exportTree(ctx, argv, "erofs-utils")
	default:
		return fmt.Errorf("no such format: %q", format)
	}
}

// exportDisk writes the machine's disk.
func (s *step) exportDisk(ctx context.Context, out, format string, zstd bool) error {
	chain, err := image.Chain(s.paths(stages.InImage)[0], s.paths(stages.InBase)[0])
	if err != nil {
		return err
	}
	flat := filepath.Join(s.Work, "flat.qcow2")
	if format == "qcow2" && !zstd {
		flat = out
	}
	f, err := os.Create(flat)
	if err != nil {
		return err
	}
	if err := errors.Join(image.Flatten(ctx, f, chain), f.Close()); err != nil || flat == out {
		return err
	}
	to, argv := out, []string{"qemu-img", "convert", "-f", "qcow2", "-O", format}
	switch {
	case format == "qcow2":
		argv = append(argv, "-c", "-o", "compression_type=zstd")
	case zstd:
		to = filepath.Join(s.Work, "disk.raw")
	}
	if err := s.command(ctx, append(argv, flat, to), "qemu-utils"); err != nil || to == out {
		return err
	}
	in, err := os.Open(to)
	if err != nil {
		return err
	}
	defer in.Close()
	return s.output(stages.OutFile, func(f *os.File) error {
		return compressed(f, true, func(w io.Writer) error { _, err := io.Copy(w, in); return err })
	})
}

// compressed writes through zstd if on is set.
func compressed(w io.Writer, on bool, write func(io.Writer) error) error {
	if !on {
		return write(w)
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)) // the bytes depend on the number
	if err != nil {
		return err
	}
	return errors.Join(write(z), z.Close())
}

// merged shows the machine's root file system as one directory.
func (s *step) merged() (string, error) {
	dir, err := s.workDir("merged")
	if err != nil {
		return "", err
	}
	layers := s.paths(stages.InLayer)
	if len(layers) == 1 {
		return layers[0], nil
	}
	return dir, mountOverlay(dir, layers, "", "")
}

// exportTree runs a program that packs the tree, which is TREE in argv.
func (s *step) exportTree(ctx context.Context, argv []string, pkg string) error {
	tree, err := s.merged()
	if err != nil {
		return err
	}
	for i := range argv {
		if argv[i] == "TREE" {
			argv[i] = tree
		}
	}
	return s.command(ctx, argv, pkg)
}

// command runs a program of the host. pkg is Debian's package of it.
func (s *step) command(ctx context.Context, argv []string, pkg string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return hint.Add(fmt.Errorf("%s is not installed", argv[0]), "on Debian, `apt install %s` installs it", pkg)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}

// exportOCI writes an OCI image layout, image-layout.md, as an archive. It compresses
// the layers with zstd if compress is set.
func (s *step) exportOCI(w io.Writer, compress bool) error {
	o := &ociWriter{tw: tar.NewWriter(w), time: s.epoch()}
	config := v1.Image{Created: &o.time, Platform: v1.Platform{Architecture: arch.Go(s.Params[stages.ParamArch]), OS: "linux"}, RootFS: v1.RootFS{Type: "layers"}}
	config.Config.Cmd = []string{"/bin/sh"}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	if err := o.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	for _, in := range s.All(stages.InLayer) {
		file, kind := in.Path, v1.MediaTypeImageLayer
		if compress {
			kind, file = v1.MediaTypeImageLayerZstd, filepath.Join(s.Work, "layer.zst")
			if err := compressFile(file, in.Path); err != nil {
				return err
			}
		}
		d, err := o.blob(kind, file)
		if err != nil {
			return err
		}
		manifest.Layers = append(manifest.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, in.Digest)
	}
	var err error
	if manifest.Config, err = o.document(v1.MediaTypeImageConfig, config); err != nil {
		return err
	}
	d, err := o.document(v1.MediaTypeImageManifest, manifest)
	if err != nil {
		return err
	}
	d.Platform = &config.Platform
	index, err := json.Marshal(v1.Index{Versioned: manifest.Versioned, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{d}})
	if err != nil {
		return err
	}
	return errors.Join(o.file("index.json", index), o.tw.Close())
}

// compressFile compresses a file with zstd.
func compressFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	err = compressed(out, true, func(w io.Writer) error { _, err := io.Copy(w, in); return err })
	return errors.Join(err, out.Close())
}

// ociWriter writes an image layout as an archive.
type ociWriter struct {
	tw      *tar.Writer
	time    time.Time
	written map[digest.Digest]bool
}

// header begins a file of the archive.
func (o *ociWriter) header(name string, size int64) error {
	return o.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: o.time, Format: tar.FormatPAX})
}

// file adds a file to the archive.
func (o *ociWriter) file(name string, b []byte) error {
	if err := o.header(name, int64(len(b))); err != nil {
		return err
	}
	_, err := o.tw.Write(b)
	return err
}

// blobName returns the path of a blob in the layout.
func blobName(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

// document adds v as a blob of JSON.
func (o *ociWriter) document(kind string, v any) (v1.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: kind, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, o.file(blobName(d.Digest), b)
}

// blob adds a file as a blob, unless the layout has it.
func (o *ociWriter) blob(kind, file string) (v1.Descriptor, error) {
	f, err := os.Open(file)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return v1.Descriptor{}, err
	}
	sum, err := digest.FromReader(f)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: kind, Digest: sum, Size: fi.Size()}
	if o.written[sum] {
		return d, nil
	}
	if o.written == nil {
		o.written = make(map[digest.Digest]bool)
	}
	o.written[sum] = true
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return d, err
	}
	if err := o.header(blobName(sum), fi.Size()); err != nil {
		return d, err
	}
	_, err = io.Copy(o.tw, f)
	return d, err
}
