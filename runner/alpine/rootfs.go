package alpine

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"path"
)

// maxUnpacked bounds a mini root file system, bytes; one has 8 million.
const maxUnpacked = 2 << 30

// Layer turns a mini root file system, a tar.gz whose names begin with "./",
// into the archive of a layer.
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
			err = fmt.Errorf("it unpacks to more than %d bytes", int64(maxUnpacked))
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
		h.Format = tar.FormatUnknown // whatever holds it
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return err
		}
	}
}
