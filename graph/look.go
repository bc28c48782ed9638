package graph

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// look is what stat(2) says of a whole tree, as git's index has it for files:
// if it is the same as before, so is the tree.
type look struct {
	id      string // of the path and of what is skipped
	sum     string // over all entries
	entries int
	newest  int64 // change of status, nanoseconds since 1970
}

// lookAt looks at a tree without reading any file, all processors at once.
func lookAt(root string, skip []string) (look, error) {
	id := sha256.Sum256([]byte(root + "\x00" + strings.Join(skip, "\x00")))
	l := look{id: hex.EncodeToString(id[:])}
	top, err := os.ReadDir(root)
	if err != nil {
		return l, err
	}
	parts := make([]part, len(top)+1)
	if err := parts[0].entry(root, ".", false, skip); err != nil {
		return l, err
	}
	g := new(errgroup.Group)
	g.SetLimit(runtime.NumCPU())
	for i, e := range top {
		g.Go(func() error { return parts[i+1].entry(filepath.Join(root, e.Name()), e.Name(), true, skip) })
	}
	if err := g.Wait(); err != nil {
		return l, err
	}
	h := sha256.New()
	for _, p := range parts {
		h.Write(p.records)
		l.entries += p.entries
		l.newest = max(l.newest, p.newest)
	}
	l.sum = hex.EncodeToString(h.Sum(nil))
	return l, nil
}

// part is what is below one entry of the top.
type part struct {
	records []byte
	entries int
	newest  int64
}

// entry looks at a file and, with deep, at what is in a directory.
func (p *part) entry(file, rel string, deep bool, skip []string) error {
	if rel != "." && Skipped(rel, skip) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil // it shows in the next look
		}
		return &os.PathError{Op: "lstat", Path: file, Err: err}
	}
	p.add(rel, &st)
	if !deep || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return p.directory(file, rel, skip)
}

func (p *part) directory(dir, rel string, skip []string) error {
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
		if Skipped(name, skip) {
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

// add appends a record. The time of a directory is left out: it changes with
// what is skipped in it.
func (p *part) add(rel string, st *unix.Stat_t) {
	p.entries++
	p.records = append(p.records, rel...)
	p.records = append(p.records, 0)
	le := binary.LittleEndian
	p.records = le.AppendUint32(p.records, st.Mode)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return
	}
	for _, x := range []int64{int64(st.Ino), st.Size, st.Mtim.Nano(), st.Ctim.Nano()} {
		p.records = le.AppendUint64(p.records, uint64(x))
	}
	p.newest = max(p.newest, st.Ctim.Nano())
}
