// This file converts a mini root file system to a layer.

package alpine

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"path"
)

// maxUnpacked limits an unpacked mini root file system, bytes. One has 8 million.
const maxUnpacked = 2 << 30

// Layer converts a mini root file system, a tar.gz whose names begin with "./", to
// the archive of a layer.
func Layer(w io.Writer, r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	limited := &io.LimitedReader{R: z, N: maxUnpacked}
	tw := tar.NewWriter(w)
	for tr := tar.NewReader(limited); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return tw.Close()
		}
		if limited.N <= 0 {
			err = fmt.Errorf("unpacks to more than %d bytes", int64(maxUnpacked))
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if name == "." {
			continue
		}
		if h.Name = name; h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = path.Clean(h.Linkname)
		}
		h.Format = tar.FormatUnknown // the writer chooses one that can hold the entry
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return err
		}
	}
}
