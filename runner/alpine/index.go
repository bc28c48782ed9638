// This file reads the index of a repository and checks packages against it.

package alpine

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"meros/runner/hint"
)

// maxIndex limits an unpacked index, bytes. That of community has 6 million.
const maxIndex = 256 << 20

// Keys holds public keys by the names of their files in /etc/apk/keys.
type Keys map[string]*rsa.PublicKey

// Add adds a key in the format PEM, under the base name of its file.
func (k Keys) Add(file string, text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil {
		return fmt.Errorf("%s is not a key in the format PEM", file)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	r, ok := key.(*rsa.PublicKey)
	if !ok {
		return fmt.Errorf("%s is not an RSA key", file)
	}
	k[path.Base(file)] = r
	return nil
}

// AddTree reads the keys that the system in a tree trusts. The tree may be
// hostile.
func (k Keys) AddTree(tree string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	const dir = "etc/apk/keys"
	d, err := root.Open(dir)
	if err != nil {
		return fmt.Errorf("has no %s: %w", dir, err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		b, err := root.ReadFile(path.Join(dir, n))
		if err == nil {
			err = k.Add(n, b)
		}
		if err != nil {
			return fmt.Errorf("key %s: %w", n, err)
		}
	}
	return nil
}

// Package is the entry of a package in an index.
type Package struct {
	Name, Version string
	Arch          string
	Size          int64    // of the file, bytes
	Control       [20]byte // SHA-1 of the file's control segment, C: in APKINDEX, apk-package(5)
}

// File returns the name of the package's file, in the directory of its index.
func (p Package) File() string { return p.Name + "-" + p.Version + ".apk" }

// ErrUnsigned means that no known key has signed an index.
var ErrUnsigned = errors.New("not signed")

// ReadIndex verifies and reads an APKINDEX.tar.gz, apk-repositories(5). Its first
// gzip member is an archive of signatures of everything after it. ReadIndex
// returns the packages by "NAME VERSION".
func ReadIndex(file []byte, keys Keys) (map[string]Package, error) {
	if len(file) == 0 {
		return nil, hint.Add(errors.New("not an APKINDEX.tar.gz, but an empty file"), "the mirror may be incomplete")
	}
	rest := bytes.NewReader(file)
	z, err := gzip.NewReader(rest) // from an io.ByteReader it reads only its own member
	if err != nil {
		return nil, fmt.Errorf("not an APKINDEX.tar.gz: %w", err)
	}
	z.Multistream(false)
	signatures, err := io.ReadAll(io.LimitReader(z, 1<<20))
	if err != nil {
		return nil, err
	}
	signed := file[len(file)-rest.Len():]
	if err := verify(signatures, signed, keys); err != nil {
		return nil, err
	}
	if z, err = gzip.NewReader(bytes.NewReader(signed)); err != nil {
		return nil, fmt.Errorf("no APKINDEX follows its signatures: %w", err)
	}
	for tr := tar.NewReader(io.LimitReader(z, maxIndex)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil, errors.New("the archive has no APKINDEX")
		}
		if err != nil {
			return nil, err
		}
		if h.Name == "APKINDEX" {
			return parseIndex(tr)
		}
	}
}

// verify looks for one good signature of a known key. The members of the archive
// of signatures are called .SIGN.RSA.KEY, for SHA-1, and .SIGN.RSA256.KEY.
func verify(signatures, signed []byte, keys Keys) error {
	var names []string
	for tr := tar.NewReader(bytes.NewReader(signatures)); ; {
		h, err := tr.Next()
		if err != nil { // the archive of signatures has no end mark
			break
		}
		signature, ok := strings.CutPrefix(h.Name, ".SIGN.")
		if !ok { // the index has no signatures
			continue
		}
		kind, name, _ := strings.Cut(signature, ".")
		key := keys[name]
		sig, err := io.ReadAll(io.LimitReader(tr, 1<<16))
		if err != nil {
			return err
		}
		names = append(names, name)
		if key == nil {
			continue
		}
		switch kind {
		case "RSA":
			sum := sha1.Sum(signed)
			err = rsa.VerifyPKCS1v15(key, crypto.SHA1, sum[:], sig)
		case "RSA256":
			sum := sha256.Sum256(signed)
			err = rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig)
		default:
			continue
		}
		if err != nil {
			return fmt.Errorf("the signature of %s is wrong: the index was changed, or its download failed: %w", name, err)
		}
		return nil
	}
	if len(names) == 0 {
		return hint.Add(ErrUnsigned, "`abuild-sign` signs an index; `keys:` in the manifest adds the key")
	}
	return hint.Add(fmt.Errorf("%w with a known key, but with %q", ErrUnsigned, names), "`keys:` in the manifest adds keys")
}

var (
	packageName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._-]*$`)
	packageVersion = regexp.MustCompile(`^[0-9][A-Za-z0-9._~-]*$`)
)

// parseIndex reads records of lines "X:value", separated by empty lines.
func parseIndex(r io.Reader) (map[string]Package, error) {
	all := make(map[string]Package)
	var p Package
	end := func() error {
		if p == (Package{}) {
			return nil
		}
		if !packageName.MatchString(p.Name) || !packageVersion.MatchString(p.Version) || p.Size <= 0 || p.Control == [20]byte{} {
			return fmt.Errorf("the APKINDEX entry of the package %q is damaged", p.Name)
		}
		all[p.Name+" "+p.Version] = p
		p = Package{}
		return nil
	}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 16<<20) // the dependencies of openrc or texlive make long lines
	for s.Scan() {
		key, value, ok := strings.Cut(s.Text(), ":")
		if !ok {
			if err := end(); err != nil {
				return nil, err
			}
			continue
		}
		switch key {
		case "P":
			p.Name = value
		case "V":
			p.Version = value
		case "A":
			p.Arch = value
		case "S":
			p.Size, _ = strconv.ParseInt(value, 10, 64)
		case "C":
			if b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(value, "Q1")); err == nil && strings.HasPrefix(value, "Q1") && len(b) == len(p.Control) {
				copy(p.Control[:], b)
			}
		}
	}
	if err := errors.Join(s.Err(), end()); err != nil {
		return nil, err
	}
	return all, nil
}

// CheckPackage returns an error unless a file is the package of an index. It
// compares the size and the digest of the control segment. The control segment has
// the digest of the package's files, apk-package(5).
func (p Package) CheckPackage(file []byte) error {
	if int64(len(file)) != p.Size {
		return fmt.Errorf("has %d bytes, and the index says %d", len(file), p.Size)
	}
	control, data, err := segments(file)
	if err != nil {
		return err
	}
	if sha1.Sum(control) != p.Control {
		return errors.New("its checksum differs from the index")
	}
	want, err := dataHash(control)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(data); fmt.Sprintf("%x", sum) != want {
		return errors.New("its files differ from its control segment")
	}
	return nil
}

// segments returns the last two gzip members of a package. A signature may come
// before them.
func segments(file []byte) (control, data []byte, err error) {
	var starts []int
	for at := 0; at < len(file) && len(starts) < 4; {
		rest := bytes.NewReader(file[at:])
		z, err := gzip.NewReader(rest)
		if err != nil {
			return nil, nil, err
		}
		z.Multistream(false)
		if _, err := io.Copy(io.Discard, z); err != nil {
			return nil, nil, err
		}
		starts = append(starts, at)
		at = len(file) - rest.Len()
	}
	if n := len(starts); n == 2 || n == 3 {
		return file[starts[n-2]:starts[n-1]], file[starts[n-1]:], nil
	}
	return nil, nil, fmt.Errorf("has %d parts, but a package has two or three", len(starts))
}

// dataHash returns the digest of the data segment in .PKGINFO.
func dataHash(control []byte) (string, error) {
	info, err := pkgInfo(control)
	if err == nil && info["datahash"] == "" {
		err = errors.New("its .PKGINFO has no datahash")
	}
	return info["datahash"], err
}

// pkgInfo returns the lines "name = value" of a control segment's .PKGINFO.
func pkgInfo(control []byte) (map[string]string, error) {
	z, err := gzip.NewReader(bytes.NewReader(control))
	if err != nil {
		return nil, err
	}
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if err != nil {
			return nil, errors.New("has no .PKGINFO")
		}
		if h.Name != ".PKGINFO" {
			continue
		}
		info := make(map[string]string)
		for s := bufio.NewScanner(io.LimitReader(tr, 1<<20)); s.Scan(); {
			if k, v, ok := strings.Cut(s.Text(), " = "); ok {
				info[k] = v
			}
		}
		return info, nil
	}
}

// Contents calls f for each entry of a package's file, including the signature and
// the control segment. The three archives read as one, because only the last has
// an end mark.
func Contents(file string, f func(*tar.Header, io.Reader) error) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := gzip.NewReader(bufio.NewReader(in))
	if err != nil {
		return err
	}
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = f(h, tr)
		}
		if err != nil {
			return err
		}
	}
}
