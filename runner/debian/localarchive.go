// This file makes an archive of local packages, for programs that only read
// archives.

package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

// LocalArchive makes an archive in dir of packages on the local disk. It returns
// the names of the packages. It does not sign the archive, because the caller has
// checked the digests of the packages.
func LocalArchive(ctx context.Context, dir, suite, arch string, debs []string, date time.Time) (names []string, err error) {
	pool := filepath.Join(dir, "pool")
	binary := filepath.Join(dir, "dists", suite, "main", "binary-"+arch)
	for _, d := range []string{pool, binary} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	var packages bytes.Buffer
	for _, name := range debs {
		control, err := addToPool(ctx, &packages, pool, name)
		if err != nil {
			return nil, err
		}
		names = append(names, control.get("Package"))
	}
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	z.Write(packages.Bytes())
	if err := z.Close(); err != nil {
		return nil, err
	}
	var release strings.Builder
	fmt.Fprintf(&release, "Suite: %s\nCodename: %s\nDate: %s\nArchitectures: %s\nComponents: main\nSHA256:\n",
		suite, suite, date.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"), arch)
	for _, f := range []struct {
		name string
		data []byte
	}{{"Packages", packages.Bytes()}, {"Packages.gz", compressed.Bytes()}} {
		if err := os.WriteFile(filepath.Join(binary, f.name), f.data, 0o644); err != nil {
			return nil, err
		}
		fmt.Fprintf(&release, " %x %d main/binary-%s/%s\n", sha256.Sum256(f.data), len(f.data), arch, f.name)
	}
	return names, os.WriteFile(filepath.Join(dir, "dists", suite, "Release"), []byte(release.String()), 0o644)
}

// addToPool links a package into the pool and writes its entry to the index.
func addToPool(ctx context.Context, index io.Writer, pool, name string) (stanza, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	d, err := openDeb(ctx, abs)
	if err != nil {
		return nil, err
	}
	defer d.close()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(d.file, 0, d.size)); err != nil {
		return nil, err
	}
	file := debFileName(d.control)
	if err := os.Symlink(abs, filepath.Join(pool, file)); err != nil {
		return nil, err
	}
	for _, f := range d.control {
		fmt.Fprintf(index, "%s: %s\n", f.name, f.value)
	}
	fmt.Fprintf(index, "Filename: pool/%s\nSize: %d\nSHA256: %x\n\n", file, d.size, h.Sum(nil))
	return d.control, nil
}

// debFileName returns a package's file name in archives and in apt's cache.
func debFileName(c stanza) string {
	return c.get("Package") + "_" + strings.ReplaceAll(c.get("Version"), ":", "%3a") + "_" + c.get("Architecture") + ".deb"
}
