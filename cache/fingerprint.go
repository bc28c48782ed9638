// This file computes fingerprints of trees from their stat data, without reading any
// file.

package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Fingerprint is a digest of the stat data of a whole tree, as git's index has it for
// single files. If the fingerprint is unchanged, so is the tree.
type Fingerprint struct {
	Sum     string // over all entries: path, mode, owner, inode, size and times
	Entries int
	Newest  int64 // latest change time (ctime) of a file, nanoseconds since 1970
	Bytes   int64 // allocated on disk
}

// FingerprintTree returns the fingerprint of the tree at root. It reads no file, and
// uses all processors. skip reports whether a path, relative to root, is left out; it
// may be nil.
func FingerprintTree(root string, skip func(name string) bool) (Fingerprint, error) {
	top, err := os.ReadDir(root)
	if err != nil {
		return Fingerprint{}, err
	}
	if skip == nil {
		skip = func(string) bool { return false }
	}
	parts := make([]fingerprinter, len(top)+1)
	if err := parts[0].entry(root, ".", false, skip); err != nil {
		return Fingerprint{}, err
	}
	g := new(errgroup.Group)
	g.SetLimit(runtime.NumCPU())
	for i, e := range top {
		g.Go(func() error { return parts[i+1].entry(filepath.Join(root, e.Name()), e.Name(), true, skip) })
	}
	if err := g.Wait(); err != nil {
		return Fingerprint{}, err
	}
	var l Fingerprint
	h := sha256.New()
	for _, p := range parts {
		h.Write(p.records)
		l.Entries += p.entries
		l.Newest = max(l.Newest, p.newest)
		l.Bytes += p.bytes
	}
	l.Sum = hex.EncodeToString(h.Sum(nil))
	return l, nil
}

// fingerprinter collects the stat data below one entry of the root.
type fingerprinter struct {
	records []byte
	entries int
	newest  int64
	bytes   int64
}

// entry adds a file and, with deep, everything below it.
func (p *fingerprinter) entry(file, rel string, deep bool, skip func(string) bool) error {
	if rel != "." && skip(rel) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil // the next fingerprint will differ
		}
		return &os.PathError{Op: "lstat", Path: file, Err: err}
	}
	p.add(rel, &st)
	if !deep || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return p.directory(file, rel, skip)
}

func (p *fingerprinter) directory(dir, rel string, skip func(string) bool) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	fd := int(d.Fd())
	var st unix.Stat_t
	for _, n := range names {
		name := rel + "/" + n
		if skip(name) {
			continue
		}
		if err := unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			continue
		}
		p.add(name, &st)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := p.directory(dir+"/"+n, name, skip); err != nil {
				return err
			}
		}
	}
	return nil
}

// add appends the record of one file. The record of a directory has no times: they
// change with the skipped files in it.
func (p *fingerprinter) add(rel string, st *unix.Stat_t) {
	p.entries++
	p.bytes += st.Blocks * 512
	p.records = append(p.records, rel...)
	p.records = append(p.records, 0)
	le := binary.LittleEndian
	for _, x := range []uint32{st.Mode, st.Uid, st.Gid} {
		p.records = le.AppendUint32(p.records, x)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return
	}
	for _, x := range []int64{int64(st.Ino), st.Size, st.Mtim.Nano(), st.Ctim.Nano()} {
		p.records = le.AppendUint64(p.records, uint64(x))
	}
	p.newest = max(p.newest, st.Ctim.Nano())
}
