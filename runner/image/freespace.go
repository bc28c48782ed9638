package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
)

// NoSpaceError is the [ErrNoSpace] of a difference that takes more than is free.
type NoSpaceError struct {
	Bytes, Inodes         int64 // that are needed
	FreeBytes, FreeInodes int64
	Enough                int64 // as large as the disk should be, bytes
}

func (e *NoSpaceError) Error() string {
	if e.Inodes > e.FreeInodes {
		return fmt.Sprintf("the image has no room for what is added: %d inodes are needed, one for each file, and %d are free (disk_size: %dM gives it more inodes, too)", e.Inodes, e.FreeInodes, e.Enough/mib)
	}
	return fmt.Sprintf("the image has no room for what is added: about %d MiB are needed, and %d MiB are free (disk_size: %dM or a larger build_free_mb gives it more)", e.Bytes/mib+1, e.FreeBytes/mib, e.Enough/mib)
}

func (e *NoSpaceError) Unwrap() error { return ErrNoSpace }

// room is what is known of a file system of type ext that something is added
// to.
type freeSpace struct {
	block, blocks, freeBlocks  int64 // the first in bytes
	freeInodes                 int64
	blocksPerGroup, inodesEach int64 // of groups of blocks
	inodeSize                  int64 // bytes
}

// usable is at least how much of what is added to the file system becomes free:
// each group of blocks has its inodes, two bitmaps and, some of them, copies of
// what describes all groups.
func (r freeSpace) usable() float64 {
	group := r.blocksPerGroup * r.block
	return max(1-float64(r.inodesEach*r.inodeSize+2*r.block)/float64(group)-1./64, 1./4)
}

// freeSpaceIn reads the superblock of an image.
func freeSpaceIn(q *qcow2, offset int64) (freeSpace, error) {
	at := offset + superblockOffset
	clusters := make([]byte, 2*clusterSize) // it may lie in two
	err := q.bytes(at/clusterSize, clusters[:clusterSize])
	if at%clusterSize+superblockSize > clusterSize && err == nil {
		err = q.bytes(at/clusterSize+1, clusters[clusterSize:])
	}
	if err != nil {
		return freeSpace{}, err
	}
	return readFreeSpace(clusters[at%clusterSize:])
}

func readFreeSpace(sb []byte) (freeSpace, error) {
	if len(sb) < superblockSize {
		return freeSpace{}, errors.New("its superblock is damaged")
	}
	le := binary.LittleEndian
	shift := le.Uint32(sb[sbLogBlockSize:])
	r := freeSpace{
		blocks: int64(le.Uint32(sb[sbBlocks:])), freeBlocks: int64(le.Uint32(sb[sbFreeBlocks:])), freeInodes: int64(le.Uint32(sb[sbFreeInodes:])),
		blocksPerGroup: int64(le.Uint32(sb[sbBlocksPerGroup:])), inodesEach: int64(le.Uint32(sb[sbInodesPerGroup:])),
	}
	if le.Uint32(sb[sbIncompatible:])&incompatible64bit != 0 {
		r.blocks |= int64(le.Uint32(sb[sbBlocksHigh:])) << 32
		r.freeBlocks |= int64(le.Uint32(sb[sbFreeBlocksHigh:])) << 32
	}
	if shift > 6 || r.blocks > 1<<40 || r.freeBlocks < 0 || r.freeBlocks > r.blocks || r.blocksPerGroup == 0 || r.inodesEach == 0 {
		return freeSpace{}, errors.New("its superblock is damaged")
	}
	r.block = 1 << (10 + shift)
	r.inodeSize = 128 // of the first revision
	if le.Uint32(sb[sbRevision:]) > 0 {
		r.inodeSize = int64(le.Uint16(sb[sbInodeSize:]))
	}
	return r, nil
}

// takes is what changes add to a file system, without what it takes for itself.
func takes(list []change) (bytes, inodes int64, err error) {
	seen := make(map[fileID]bool)
	for _, c := range list {
		if c.kept {
			continue
		}
		if c.exists != nil {
			inodes--
		}
		if c.file == "" {
			continue
		}
		if id, several := linksOf(c.fi); several {
			if seen[id] {
				continue
			}
			seen[id] = true
		}
		inodes++
		n := c.fi.Size()
		switch {
		case c.fi.IsDir():
			n = blockSize
		case n >= sparseFrom:
			if n, err = written(c.file); err != nil {
				return 0, 0, err
			}
		}
		bytes += roundUp(n, blockSize)
	}
	return bytes, inodes, nil
}

// missing is about how much larger the disk has to be, bytes.
func (e *NoSpaceError) missing() int64 { return max(e.Bytes-e.FreeBytes, 0) + e.Bytes/20 + 4*mib }

// MoreThan sets what is enough where a disk of a size in bytes is not.
func (e *NoSpaceError) MoreThan(size int64) { e.Enough = roundUp(size+e.missing(), mib) }

// TreeBytes is about what the files of a tree take in a file system.
func TreeBytes(dir string) (int64, error) {
	c, err := measure(dir)
	return c.bytes + c.more, err
}

// lacks is the error of changes that there is no room for, in a disk of a size
// in bytes.
func (r freeSpace) lacks(list []change, size int64) *NoSpaceError {
	bytes, inodes, err := takes(list)
	if err != nil {
		return nil
	}
	e := &NoSpaceError{Bytes: bytes, Inodes: inodes, FreeBytes: r.freeBlocks * r.block, FreeInodes: r.freeInodes}
	more := e.missing()
	if groups := (inodes - r.freeInodes + r.inodesEach - 1) / r.inodesEach; groups > 0 {
		have := (r.blocks + r.blocksPerGroup - 1) / r.blocksPerGroup
		more += ((have+groups)*r.blocksPerGroup - r.blocks) * r.block // only whole groups have all of their inodes
	}
	e.Enough = roundUp(size+more, mib)
	return e
}

// added counts what is added to directories.
func added(list []change) map[string]int {
	n := make(map[string]int)
	for _, c := range list {
		if c.file != "" && c.exists == nil {
			n["/"+filepath.Dir(c.name)]++
		}
	}
	return n
}
