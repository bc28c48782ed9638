// This file reads the layers of images on this host, and checks their digests.

package oci

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"

	"github.com/klauspost/compress/zstd"
)

// maxLayer bounds the size of an uncompressed layer, bytes.
const maxLayer = 64 << 30

// Read calls use with the layer's uncompressed archive. Then it checks that the archive
// has the digest in the image's configuration.
func (l Layer) Read(use func(io.Reader) error) error {
	f, err := os.Open(l.File)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := l.raw(f)
	if err != nil {
		return err
	}
	plain, err := decompress(bufio.NewReaderSize(r, 1<<16))
	if err != nil {
		return err
	}
	defer plain.Close()
	sum := &summed{r: plain, h: sha256.New(), left: maxLayer}
	if err := use(sum); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, sum); err != nil { // bytes behind the archive's end
		return err
	}
	if got := hex.EncodeToString(sum.h.Sum(nil)); got != l.DiffID {
		return fmt.Errorf("the layer has the digest sha256:%s, but the image says sha256:%s", got, l.DiffID)
	}
	return nil
}

// maxLinks limits the links that lead to a layer in an archive. Older versions of
// Docker write each layer once, and links to it.
const maxLinks = 8

// raw returns the layer as it is in its file.
func (l Layer) raw(f *os.File) (io.Reader, error) {
	if l.Entry == "" {
		return f, nil
	}
	want := path.Clean(l.Entry)
	for range maxLinks {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		r, link, err := find(tar.NewReader(f), want)
		if err != nil || link == "" {
			return r, err
		}
		want = link
	}
	return nil, fmt.Errorf("%s: more than %d links", l.Entry, maxLinks)
}

// find returns the content of an entry or, if it is a link, the name of its target.
func find(tr *tar.Reader, want string) (r io.Reader, link string, err error) {
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil, "", fmt.Errorf("the archive has no %s", want)
		}
		if err != nil {
			return nil, "", err
		}
		if path.Clean(h.Name) != want {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			return tr, "", nil
		case tar.TypeSymlink:
			return nil, path.Join(path.Dir(want), h.Linkname), nil
		case tar.TypeLink:
			return nil, path.Clean(h.Linkname), nil
		}
	}
}

// decompress recognizes gzip and zstd, and passes anything else through.
func decompress(r *bufio.Reader) (io.ReadCloser, error) {
	start, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}): // RFC 1952
		return gzip.NewReader(r)
	case bytes.Equal(start, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}

// summed hashes the bytes that are read, and limits their number to left.
type summed struct {
	r    io.Reader
	h    hash.Hash
	left int64
}

// Read implements io.Reader.
func (s *summed) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.h.Write(b[:n])
	if s.left -= int64(n); s.left < 0 {
		return n, fmt.Errorf("the layer unpacks to more than %d bytes", int64(maxLayer))
	}
	return n, err
}
