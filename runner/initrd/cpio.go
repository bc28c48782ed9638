// Package initrd writes the small first root file system of a guest, and contains
// the program that runs in it. The program finds the disk and starts the guest's
// init, runs hooks, or works on a root file system. The package does not know how
// the guest is started.
package initrd

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sort"
)

// File is an entry of an archive. Missing parent directories are added.
type File struct {
	Name     string // without a leading /
	Mode     uint32 // permission bits
	UID, GID int
	Data     []byte
	Source   string // file of the host with the content, instead of Data
	Link     string // target, if it is a symbolic link
	Char     [2]int // device numbers, if it is a character device
}

// Types of files, cpio(5) and inode(7).
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
	typeChar = 0o020000
)

// WriteCpio writes the files as a "newc" archive, in the format of the kernel
// document driver-api/early-userspace/buffer-format. The archive is sorted, has no
// times, and is padded so that another archive can follow.
func WriteCpio(w io.Writer, files []File) error {
	c := &cpioWriter{w: w}
	dirs := make(map[string]bool)
	sorted := slices.Clone(files)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Name < sorted[j].Name })
	for _, f := range sorted {
		if err := c.parents(f.Name, dirs); err != nil {
			return err
		}
		if err := c.file(f); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	if err := c.entry("TRAILER!!!", 0, 0, 0, 0, [2]int{}); err != nil {
		return err
	}
	return c.pad(512)
}

type cpioWriter struct {
	w     io.Writer
	inode int
	at    int64
}

func (c *cpioWriter) parents(name string, made map[string]bool) error {
	dir := path.Dir(name)
	if dir == "." || made[dir] {
		return nil
	}
	if err := c.parents(dir, made); err != nil {
		return err
	}
	made[dir] = true
	return c.entry(dir, typeDir|0o755, 0, 0, 0, [2]int{})
}

func (c *cpioWriter) file(f File) error {
	switch {
	case f.Link != "":
		if err := c.entry(f.Name, typeLink|0o777, f.UID, f.GID, int64(len(f.Link)), [2]int{}); err != nil {
			return err
		}
		return c.data([]byte(f.Link))
	case f.Char != [2]int{}:
		return c.entry(f.Name, typeChar|f.Mode, f.UID, f.GID, 0, f.Char)
	case f.Source == "":
		if err := c.entry(f.Name, typeFile|f.Mode, f.UID, f.GID, int64(len(f.Data)), [2]int{}); err != nil {
			return err
		}
		return c.data(f.Data)
	}
	b, err := os.ReadFile(f.Source)
	if err != nil {
		return err
	}
	f.Source, f.Data = "", b
	return c.file(f)
}

func (c *cpioWriter) entry(name string, mode uint32, uid, gid int, size int64, dev [2]int) error {
	c.inode++
	if size > 0xffffffff {
		return fmt.Errorf("%d bytes exceed the limit of a cpio archive", size)
	}
	h := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, uid, gid, 1, 0, size, 0, 0, dev[0], dev[1], len(name)+1, 0, name)
	if err := c.write([]byte(h)); err != nil {
		return err
	}
	return c.pad(4)
}

func (c *cpioWriter) data(b []byte) error {
	if err := c.write(b); err != nil {
		return err
	}
	return c.pad(4)
}

func (c *cpioWriter) pad(to int64) error {
	if n := c.at % to; n != 0 {
		return c.write(make([]byte, to-n))
	}
	return nil
}

func (c *cpioWriter) write(b []byte) error {
	n, err := c.w.Write(b)
	c.at += int64(n)
	return err
}
