// This file computes how large a disk must be for its content: files, directories,
// ext4's own metadata, and the journal.

package image

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"meros/runner/hint"
)

// content measures the content of a file system.
type content struct {
	bytes  int64 // of files, by size; the space they occupy on the host does not count
	inodes int64
	more   int64 // upper bound of the further bytes they need

	entries map[string]int // entries of each directory
}

// shape is a size of a disk and of its journal.
type shape struct {
	size    int64 // of the disk, bytes
	journal int64 // bytes
}

// journals lists the possible sizes of a journal. Disks of an ordinary size have
// always had the large one. The small one is the minimum; mke2fs gives it to file
// systems of less than 128 MiB. mke2fs refuses a journal that takes more than half
// of the free space.
var journals = []int64{32 * mib, 4 * mib}

// aroundRoot is the part of a disk outside the root partition, bytes.
const aroundRoot = PartitionOffset + mib

// shapes returns the possible shapes of a disk for some content, best first.
func shapes(c content, o Options) []shape {
	var all []shape
	for _, j := range journals {
		size := o.Size
		if size == 0 {
			size = roundUp(c.bytes+c.bytes/20+o.Free+j+8*mib, mib)
		}
		all = append(all, shape{size, j})
	}
	if o.Size == 0 { // in case c.more is a large part of the content
		least := all[len(all)-1]
		all = append(all, shape{c.enough(least.size) + roundUp(o.Free, mib), least.journal})
	}
	return all
}

// inodesOf returns the number of inodes on a disk of that size.
func (c content) inodesOf(size int64) int64 {
	return max(c.inodes+c.inodes/10+1024, size/inodeRatio)
}

// enough returns the sufficient size of a disk with the smallest journal, bytes. The
// search begins at size.
func (c content) enough(size int64) int64 {
	journal := journals[len(journals)-1]
	for {
		need := aroundRoot + c.overhead(size) + max(c.bytes+c.more+journal, 2*journal)
		if need <= size {
			return size
		}
		size += roundUp(need-size, mib)
	}
}

// overhead returns an upper bound, in bytes, of the file system's own metadata on a
// disk of that size, without the journal: kernel document filesystems/ext4/overview.
func (c content) overhead(size int64) int64 {
	const (
		groupBlocks = 8 * blockSize // a bitmap is one block
		descSize    = 64
		growth      = 1024 // mke2fs: resize_inode lets the file system grow by this factor
		addresses   = 1024 // in a block of the resize inode, which limits that growth
	)
	groups := (size/blockSize + groupBlocks - 1) / groupBlocks
	inodes := roundUp(c.inodesOf(size), groups*blockSize/inodeSize)
	copied := 1 + max(groups*descSize/blockSize+1, min(groups*growth*descSize/blockSize, addresses+groups*descSize/blockSize))
	copies := int64(2) // groups 0, 1 and the powers of 3, 5 and 7 have the superblock
	for _, base := range []int64{3, 5, 7} {
		for g := base; g < groups; g *= base {
			copies++
		}
	}
	const lostFound, resizeInode, bitmaps = 4, 1, 2
	return inodes*inodeSize + blockSize*(groups*bitmaps+min(copies, groups)*copied+lostFound+resizeInode)
}

// measure returns the content of the tree.
func measure(tree string) (content, error) {
	var c content
	links := make(map[fileID]int)
	names := make(map[string]int64) // bytes of a directory's entries
	c.entries = make(map[string]int)
	err := filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		c.entries[strings.TrimPrefix(filepath.Dir(p), tree)]++
		names[filepath.Dir(p)] += roundUp(direntSize+int64(len(d.Name())), 4)
		if id, several := linksOf(fi); several {
			if links[id]++; links[id] > maxLinks {
				return fmt.Errorf("%s: more than %d names (hard links) of one file, the maximum in ext4", strings.TrimPrefix(p, tree), maxLinks)
			}
			if links[id] > 1 {
				return nil
			}
		}
		return c.add(p, fi)
	})
	for _, n := range names {
		c.more += roundUp(n+n/8, blockSize) // no entry crosses a block boundary
	}
	return c, err
}

// fileID identifies a file, whatever its name.
type fileID struct{ dev, ino uint64 }

// linksOf returns the file of a name, and whether the file may have several names.
func linksOf(fi fs.FileInfo) (id fileID, several bool) {
	st := fi.Sys().(*syscall.Stat_t)
	return fileID{st.Dev, st.Ino}, st.Nlink > 1 && !fi.IsDir()
}

// maxLinks limits the names of a file, EXT4_LINK_MAX of the kernel's fs/ext4/ext4.h.
// mke2fs counts them in 16 bits and does not check for an overflow.
const maxLinks = 65000

// direntSize is the size of a directory entry without its name, bytes.
const direntSize = 8

// add adds one file to the content.
func (c *content) add(file string, fi fs.FileInfo) error {
	c.inodes++
	c.bytes += inodeSize
	n := fi.Size()
	switch {
	case fi.IsDir():
		c.bytes += blockSize // its size on the host does not count
	case fi.Mode().IsRegular():
		if n >= sparseFrom {
			var err error
			if n, err = written(file); err != nil { // a sparse file stays sparse in the image
				return err
			}
		}
		c.bytes += roundUp(n, blockSize)
		if n >= mib {
			c.more += roundUp(n/256, blockSize) // extent blocks, at worst with holes everywhere
		}
	case fi.Mode()&fs.ModeSymlink != 0 && n >= inlineLink:
		c.more += blockSize
	}
	if names, err := xattrNames(file); err != nil || slices.ContainsFunc(names, preservedXattr) {
		c.more += blockSize
		return err
	}
	return nil
}

// inlineLink is the length from which on the target of a link needs a block.
const inlineLink = 60

// sparseFrom is the file size from which on a search for holes pays off, bytes.
const sparseFrom = 64 * mib

// written returns the bytes of a file in clusters that are not all zeros. It does
// not count allocated blocks: the host's file system decides about those.
func written(file string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	clusters, err := rawClusters(f, fi.Size())
	return int64(len(clusters)) * clusterSize, err
}

// resize sets the size of a disk's file.
func resize(f *os.File, size int64) error {
	err := f.Truncate(size)
	if errors.Is(err, syscall.EFBIG) {
		err = fmt.Errorf("the file system of the cache cannot hold a file as large as the disk, %d GiB", size>>30)
		return hint.Add(err, "make the disk smaller, or keep the cache in another file system: ext4 holds files of less than 16 TiB, xfs larger ones")
	}
	return err
}

// largeDirectory is the number of entries from which on a directory is reported as
// slow: for each new entry, e2fsprogs reads all existing ones.
const largeDirectory = 20_000

// noteLargeDirectories logs the directories that take long.
func (o Options) noteLargeDirectories(program string, entries map[string]int) {
	for _, dir := range slices.Sorted(maps.Keys(entries)) {
		if n := entries[dir]; n >= largeDirectory && o.Log != nil {
			fmt.Fprintf(o.Log, "%d entries in %s: this takes long, %s needs four times as long for twice as many; subdirectories would be fast\n", n, cmp.Or(dir, "/"), program)
		}
	}
}

// manyEntries is the number of new entries in a directory from which on a copy of the
// image is faster. Through FUSE, reading the directory for each entry costs more.
const manyEntries = 1000

// hasManyEntries reports whether a directory has manyEntries or more.
func hasManyEntries(entries map[string]int) bool {
	for _, n := range entries {
		if n >= manyEntries {
			return true
		}
	}
	return false
}
