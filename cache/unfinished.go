package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// unfinishedPrefix begins the names of files outside of the store that do not
// have their own name yet.
const unfinishedPrefix = ".meros-unfinished-"

// Unfinished is a file on its way to a path outside of the store. It is complete
// when it gets its name; until then an flock(2) on it says that who writes it is
// alive.
type Unfinished struct {
	*os.File
	path string
}

// NewUnfinished makes it beside path, and removes what dead runs left there.
// Only its owner may read it. What is no regular file, nor a link to one, is not
// replaced.
func NewUnfinished(path string) (*Unfinished, error) {
	if err := replaceable(path); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	reclaimUnfinished(dir)
	for {
		f, err := os.CreateTemp(dir, unfinishedPrefix+"*")
		if err != nil {
			return nil, err
		}
		u := &Unfinished{f, path}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil && err != unix.EWOULDBLOCK {
			u.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		// Between the two calls another run may have taken it for a dead one's.
		if sameFile(f, f.Name()) {
			return u, nil
		}
		f.Close()
	}
}

// Finish makes it durable and gives it its mode and name.
func (u *Unfinished) Finish(mode os.FileMode) error {
	if err := errors.Join(u.Chmod(mode), u.Sync()); err != nil {
		return err
	}
	if err := replaceable(u.path); err != nil {
		return err // it came after
	}
	return os.Rename(u.Name(), u.path)
}

// replaceable tells whether a file may get this name: rename(2) would put it in
// the place of a device node or a FIFO, too, which others then write into.
func replaceable(path string) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file, and is not replaced by one (remove it, or name another file)", path)
	}
	return nil
}

// Close removes it if it is not finished.
func (u *Unfinished) Close() error {
	if sameFile(u.File, u.Name()) {
		os.Remove(u.Name())
	}
	return u.File.Close()
}

// reclaimUnfinished removes the files of dead runs from a directory, as far as
// it may.
func reclaimUnfinished(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // who makes a file there says why it cannot
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), unfinishedPrefix) || !e.Type().IsRegular() {
			continue
		}
		name := filepath.Join(dir, e.Name())
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		f := os.NewFile(uintptr(fd), name)
		if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil && sameFile(f, name) {
			os.Remove(name)
		}
		f.Close()
	}
}

// copySparse copies a file to an empty one and keeps its holes, lseek(2).
func copySparse(to, from *os.File, read func(io.Reader) io.Reader) error {
	fi, err := from.Stat()
	if err != nil {
		return err
	}
	for at := int64(0); at < fi.Size(); {
		data, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // only a hole is left
		}
		if err != nil {
			return err
		}
		if at, err = unix.Seek(int(from.Fd()), data, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(to, data), read(io.NewSectionReader(from, data, at-data))); err != nil {
			return err
		}
	}
	return to.Truncate(fi.Size())
}
