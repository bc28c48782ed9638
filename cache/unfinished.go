// This file writes files outside of the store that are complete when they get their
// names, and removes those of killed processes.

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

	"meros/runner/hint"
)

// unfinishedPrefix begins the names of unfinished files.
const unfinishedPrefix = ".meros-unfinished-"

// Unfinished is a file that gets its final name, outside of the store, when it is
// complete. Until then its writer holds an flock(2) on it.
type Unfinished struct {
	*os.File
	path string
}

// NewUnfinished creates an unfinished file beside path, with mode 0600. It removes
// those of dead processes there. It fails if path exists and is neither a regular file
// nor a link to one.
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
		// Before the lock, another process may have reclaimed the file as a dead one's.
		if sameFile(f, f.Name()) {
			return u, nil
		}
		f.Close()
	}
}

// Finish makes the file durable and gives it its mode and final name.
func (u *Unfinished) Finish(mode os.FileMode) error {
	if err := errors.Join(u.Chmod(mode), u.Sync()); err != nil {
		return err
	}
	if err := replaceable(u.path); err != nil {
		return err // path has changed since NewUnfinished
	}
	return os.Rename(u.Name(), u.path)
}

// replaceable returns an error if path exists and is neither a regular file nor a link
// to one. rename(2) would replace a device node or a FIFO, too, and its writers would
// then write into the file.
func replaceable(path string) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return hint.Add(fmt.Errorf("%s is not a regular file, and is not replaced", path), "remove it, or name another file")
	}
	return nil
}

// Close closes the file, and removes it if it is not finished.
func (u *Unfinished) Close() error {
	if sameFile(u.File, u.Name()) {
		os.Remove(u.Name())
	}
	return u.File.Close()
}

// reclaimUnfinished removes the unfinished files of dead processes from dir. It ignores
// errors.
func reclaimUnfinished(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // creating a file there will report the error
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

// copySparse copies a file to an empty one and preserves its holes, lseek(2).
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
