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
)

// content is what a file system has to have room for.
type content struct {
	bytes  int64 // of files, by their sizes and not by what they occupy on the host
	inodes int64
	more   int64 // bytes that some of it takes beyond that, at most

	entries map[string]int // of directories
}

// shape is how a disk may be made.
type shape struct {
	size    int64 // of the disk, bytes
	journal int64 // bytes
}

// journals are the sizes that a journal may have. The large one is what disks
// of an ordinary size have always had; the small one is the smallest there can
// be, and what mke2fs gives file systems of less than 128 MiB. mke2fs refuses a
// journal that takes more than half of what is free.
var journals = []int64{32 * mib, 4 * mib}

// aroundRoot is what of a disk is not the root's partition, bytes.
const aroundRoot = PartitionOffset + mib

// shapes are the ways to make a disk for some content, best first.
func shapes(c content, o Options) []shape {
	var all []shape
	for _, j := range journals {
		size := o.Size
		if size == 0 {
			size = roundUp(c.bytes+c.bytes/20+o.Free+j+8*mib, mib)
		}
		all = append(all, shape{size, j})
	}
	if o.Size == 0 { // much that is not bytes of files
		least := all[len(all)-1]
		all = append(all, shape{c.enough(least.size) + roundUp(o.Free, mib), least.journal})
	}
	return all
}

// inodesOf is how many inodes a disk of that size has.
func (c content) inodesOf(size int64) int64 {
	return max(c.inodes+c.inodes/10+1024, size/inodeRatio)
}

// enough is how large a disk with the smallest journal has to be, from a size
// on that is not enough.
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

// overhead is at most what the file system of a disk of that size takes for
// itself but for its journal: kernel document filesystems/ext4/overview.
func (c content) overhead(size int64) int64 {
	const (
		groupBlocks = 8 * blockSize // a bitmap is one block
		descSize    = 64
		growth      = 1024 // mke2fs: resize_inode lets it grow to as many times its size
		addresses   = 1024 // in a block of the resize inode, which bounds that
	)
	groups := (size/blockSize + groupBlocks - 1) / groupBlocks
	inodes := roundUp(c.inodesOf(size), groups*blockSize/inodeSize)
	copied := 1 + max(groups*descSize/blockSize+1, min(groups*growth*descSize/blockSize, addresses+groups*descSize/blockSize))
	copies := int64(2) // groups 0 and 1 and those of powers of 3, 5 and 7 have the superblock
	for _, base := range []int64{3, 5, 7} {
		for g := base; g < groups; g *= base {
			copies++
		}
	}
	const lostFound, resizeInode, bitmaps = 4, 1, 2
	return inodes*inodeSize + blockSize*(groups*bitmaps+min(copies, groups)*copied+lostFound+resizeInode)
}

// measure is what a file system for the tree has to have room for.
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
				return fmt.Errorf("%s: the file has more than %d names (hard links), which ext4 does not have", strings.TrimPrefix(p, tree), maxLinks)
			}
			if links[id] > 1 {
				return nil
			}
		}
		return c.add(p, fi)
	})
	for _, n := range names {
		c.more += roundUp(n+n/8, blockSize) // an entry does not cross blocks
	}
	return c, err
}

// fileID is what the names of one file have in common.
type fileID struct{ dev, ino uint64 }

// linksOf tells which file a name is of, and whether it may have several.
func linksOf(fi fs.FileInfo) (id fileID, several bool) {
	st := fi.Sys().(*syscall.Stat_t)
	return fileID{st.Dev, st.Ino}, st.Nlink > 1 && !fi.IsDir()
}

// maxLinks is how many names a file may have, EXT4_LINK_MAX of the kernel's
// fs/ext4/ext4.h. mke2fs counts them in 16 bits, and does not look whether it can.
const maxLinks = 65000

// direntSize is an entry of a directory without its name.
const direntSize = 8

// add adds one file.
func (c *content) add(file string, fi fs.FileInfo) error {
	c.inodes++
	c.bytes += inodeSize
	n := fi.Size()
	switch {
	case fi.IsDir():
		c.bytes += blockSize // whatever it takes where the tree lies
	case fi.Mode().IsRegular():
		if n >= sparseFrom {
			var err error
			if n, err = written(file); err != nil { // a sparse file stays sparse in the image
				return err
			}
		}
		c.bytes += roundUp(n, blockSize)
		if n >= mib {
			c.more += roundUp(n/256, blockSize) // blocks that say where it is, with holes everywhere
		}
	case fi.Mode()&fs.ModeSymlink != 0 && n >= inlineLink:
		c.more += blockSize
	}
	if names, err := xattrNames(file); err != nil || slices.ContainsFunc(names, keptXattr) {
		c.more += blockSize
		return err
	}
	return nil
}

// inlineLink is from which length on a link's target is not in its inode.
const inlineLink = 60

// sparseFrom is the size from which on it is worth to look for holes, bytes.
const sparseFrom = 64 * mib

// written is how much of a file is not zero, in whole clusters: not how much
// is allocated, which the host's file system decides.
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

// resize makes a file as large as a disk.
func resize(f *os.File, size int64) error {
	err := f.Truncate(size)
	if errors.Is(err, syscall.EFBIG) {
		return fmt.Errorf("the file system that holds the cache has no files as large as the disk, %d GiB (make it smaller, or keep the cache in another file system: ext4 has files of less than 16 TiB, xfs larger ones)", size>>30)
	}
	return err
}

// From so many entries on, a directory is said to take long: e2fsprogs looks at
// all there are for each that it adds.
const crowd = 20_000

// noteCrowds tells of directories that take long.
func (o Options) noteCrowds(program string, entries map[string]int) {
	for _, dir := range slices.Sorted(maps.Keys(entries)) {
		if n := entries[dir]; n >= crowd && o.Log != nil {
			fmt.Fprintf(o.Log, "%d entries in %s: this takes long, as %s needs four times as long for twice as many (directories below it would be fast)\n", n, cmp.Or(dir, "/"), program)
		}
	}
}

// From so many entries on, reading a directory again and again costs more
// through FUSE than a copy of the image does.
const manyEntries = 1000

func crowded(entries map[string]int) bool {
	for _, n := range entries {
		if n >= manyEntries {
			return true
		}
	}
	return false
}
