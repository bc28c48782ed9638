// This file reads a binary package: its control files, and the entries of its
// data.

package debian

import (
	"archive/tar"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"meros/runner/hint"
)

const (
	// maxControlFile and maxControlTotal limit the control part, which is read
	// into memory, bytes. The largest in Debian have 4 MB of md5sums.
	maxControlFile  = 32 << 20
	maxControlTotal = 64 << 20
	maxControlFiles = 256

	// maxData limits the unpacked data of one package, bytes.
	maxData = 32 << 30
)

// deb is an open binary package, deb(5).
type deb struct {
	path    string
	file    *os.File
	size    int64
	control stanza            // the control file
	scripts map[string][]byte // all files of the control part, by name
	modes   map[string]int64  // their permissions
	data    member
}

// openDeb opens a package and reads its control part. Its errors name the file.
func openDeb(ctx context.Context, name string) (*deb, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	d := &deb{path: name, file: f, scripts: map[string][]byte{}, modes: map[string]int64{}}
	if err := d.open(ctx); err != nil {
		f.Close()
		return nil, fmt.Errorf("package %s: %w", name, err)
	}
	return d, nil
}

func (d *deb) close() error { return d.file.Close() }

func (d *deb) open(ctx context.Context) error {
	fi, err := d.file.Stat()
	if err != nil {
		return err
	}
	d.size = fi.Size()
	members, err := readAr(d.file, d.size)
	if err != nil {
		return err
	}
	if len(members) == 0 || members[0].name != "debian-binary" {
		return errors.New("is not a Debian package: the first member is not debian-binary")
	}
	version := make([]byte, min(members[0].size, 4))
	if _, err := d.file.ReadAt(version, members[0].offset); err != nil || string(version[:min(2, len(version))]) != "2." {
		return fmt.Errorf("has package format %q, but only 2.x is supported", version)
	}
	var control member
	for _, m := range members[1:] {
		switch {
		case strings.HasPrefix(m.name, "_"):
		case control.name == "" && strings.HasPrefix(m.name, "control.tar"):
			control = m
		case control.name != "" && strings.HasPrefix(m.name, "data.tar"):
			d.data = m
			return d.readControl(ctx, control)
		default:
			return fmt.Errorf("member %q is in an unexpected place", m.name)
		}
	}
	return errors.New("has no control.tar followed by a data.tar")
}

func (d *deb) readControl(ctx context.Context, m member) (err error) {
	r, err := d.decompress(ctx, m, maxControlTotal)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("control.tar: %w", err)
		}
		name := strings.TrimPrefix(path.Clean(h.Name), "./")
		if h.Typeflag == tar.TypeDir && name == "." {
			continue
		}
		if h.Typeflag != tar.TypeReg || !validControlName(name) {
			return fmt.Errorf("control.tar: %q is not a plain file", h.Name)
		}
		if _, twice := d.scripts[name]; twice || len(d.scripts) == maxControlFiles || h.Size > maxControlFile {
			return fmt.Errorf("control.tar: %q is a duplicate, too large or one of too many", h.Name)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return fmt.Errorf("control.tar: %s: %w", name, err)
		}
		d.scripts[name], d.modes[name] = data, h.Mode&0o777
	}
	if err := r.drain(); err != nil {
		return err
	}
	d.control, err = parseControl(bytes.NewReader(d.scripts["control"]))
	return err
}

// validControlName reports whether a file info/PACKAGE.s of dpkg's database can
// have this name.
func validControlName(s string) bool {
	return s != "" && len(s) <= 64 && s[0] != '.' && only(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-_")
}

func (d *deb) name() string { return d.control.get("Package") }
func (d *deb) arch() string { return d.control.get("Architecture") }

// contents calls f for each entry of the data part. f may read the entry's bytes
// from the reader.
func (d *deb) contents(ctx context.Context, f func(*tar.Header, io.Reader) error) (err error) {
	r, err := d.decompress(ctx, d.data, maxData)
	if err != nil {
		return fmt.Errorf("package %s: %w", d.path, err)
	}
	defer func() {
		if cerr := r.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("package %s: %w", d.path, cerr)
		}
	}()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			if err = r.drain(); err == nil {
				return nil
			}
		}
		if err == nil {
			if err = f(h, tr); err == errStop {
				r.abandon()
				return nil
			}
		}
		if err != nil {
			r.abandon()
			return fmt.Errorf("package %s: %w", d.path, err)
		}
	}
}

// errStop makes contents return early without an error.
var errStop = errors.New("stop")

// ExtractFile calls read for the first regular file of a package whose path,
// without ./, matches a pattern of path.Match. It returns an error if there is no
// such file.
func ExtractFile(ctx context.Context, deb, pattern string, read func(name string, r io.Reader) error) error {
	d, err := openDeb(ctx, deb)
	if err != nil {
		return err
	}
	defer d.close()
	found := false
	err = d.contents(ctx, func(h *tar.Header, r io.Reader) error {
		name := path.Clean(h.Name)
		if ok, err := path.Match(pattern, name); err != nil || !ok || h.Typeflag != tar.TypeReg {
			return err
		}
		found = true
		if err := read(name, r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return errStop
	})
	if err == nil && !found {
		return fmt.Errorf("package %s: there is no %s in it", deb, pattern)
	}
	return err
}

// plainReader reads a member and decompresses it.
type plainReader struct {
	io.Reader
	limit *io.LimitedReader
	stop  func()       // kills the decompressor; may be nil
	end   func() error // waits for the decompressor; may be nil
	left  bool         // the caller does not read to the end
}

// drain reads the rest, so that the decompressor verifies its checksums.
func (r *plainReader) drain() error {
	_, err := io.Copy(io.Discard, r.Reader)
	if err == nil && r.limit.N <= 0 {
		err = errors.New("unpacks to more than the limit")
	}
	return err
}

func (r *plainReader) abandon() { r.left = true }

func (r *plainReader) Close() error {
	if r.left && r.stop != nil {
		r.stop()
	}
	if r.end == nil {
		return nil
	}
	if err := r.end(); err != nil && !r.left {
		return err
	}
	return nil
}

// decompress returns a reader of at most limit decompressed bytes of a member.
func (d *deb) decompress(ctx context.Context, m member, limit int64) (*plainReader, error) {
	section := io.NewSectionReader(d.file, m.offset, m.size)
	p := &plainReader{}
	var in io.Reader
	switch suffix := m.name[strings.Index(m.name, ".tar")+len(".tar"):]; suffix {
	case "":
		in = section
	case ".gz":
		z, err := gzip.NewReader(section)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		in = z
	case ".zst":
		z, err := zstd.NewReader(section, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		in, p.end = z, func() error { z.Close(); return nil }
	case ".bz2":
		in = bzip2.NewReader(section)
	case ".xz", ".lzma":
		stdin := io.Reader(section)
		if m.offset+m.size == d.size {
			// As the last member, it needs no pipe: xz reads the file itself.
			f, err := os.Open(d.path)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			if _, err := f.Seek(m.offset, io.SeekStart); err != nil {
				return nil, err
			}
			stdin = f
		}
		if err := p.startXZ(ctx, stdin, m.name, suffix); err != nil {
			return nil, err
		}
		in = p.Reader
	default:
		return nil, fmt.Errorf("%s: unknown compression", m.name)
	}
	p.limit = &io.LimitedReader{R: in, N: limit}
	p.Reader = p.limit
	return p, nil
}

// startXZ starts xz(1), which is three times as fast as any decoder in Go.
func (p *plainReader) startXZ(ctx context.Context, stdin io.Reader, name, suffix string) error {
	ctx, cancel := context.WithCancel(ctx)
	format := "--format=" + strings.TrimPrefix(suffix, ".")
	cmd := exec.CommandContext(ctx, "xz", "--decompress", "--stdout", "--threads=1", "--memlimit-decompress=256MiB", format)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		if errors.Is(err, exec.ErrNotFound) {
			return hint.Add(fmt.Errorf("%s: xz is not installed", name), "on Debian: `apt install xz-utils`")
		}
		return fmt.Errorf("%s: xz: %w", name, err)
	}
	p.Reader, p.stop = out, cancel
	p.end = func() error {
		defer cancel()
		out.Close()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: xz: %w: %s", name, err, strings.TrimSpace(stderr.String()))
		}
		return nil
	}
	return nil
}
