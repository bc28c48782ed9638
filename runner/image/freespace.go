// This file knows the free space of ext file systems and the space that changes
// need. It reports how large a disk has to be.

package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
)

// NoSpaceError is an [ErrNoSpace] with the numbers: the changes need more than is
// free.
type NoSpaceError struct {
	Bytes, Inodes         int64 // needed
	FreeBytes, FreeInodes int64
	Enough                int64 // a sufficient size of the disk, bytes
}

// Error implements error.
func (e *NoSpaceError) Error() string {
	if e.Inodes > e.FreeInodes {
		return fmt.Sprintf("not enough free inodes in the image: %d inodes are needed, one for each file, and %d are free", e.Inodes, e.FreeInodes)
	}
	return fmt.Sprintf("not enough free space in the image: about %d MiB are needed, and %d MiB are free", e.Bytes/mib+1, e.FreeBytes/mib)
}

// Hint returns the next step, see package hint.
func (e *NoSpaceError) Hint() string {
	if e.Inodes > e.FreeInodes {
		return fmt.Sprintf("`disk_size: %dM` gives it more inodes, too", e.Enough/mib)
	}
	return fmt.Sprintf("`disk_size: %dM` or a larger `build_free_mb` gives it more space", e.Enough/mib)
}

// Unwrap returns [ErrNoSpace].
func (e *NoSpaceError) Unwrap() error { return ErrNoSpace }

// freeSpace describes the free space of a file system of type ext.
type freeSpace struct {
	block, blocks, freeBlocks  int64 // block is the size of one, bytes
	freeInodes                 int64
	blocksPerGroup, inodesEach int64 // of each block group
	inodeSize                  int64 // bytes
}

// usable returns the least share of added bytes that becomes free space. Each block
// group holds its inodes and two bitmaps, and some groups a copy of the group
// descriptors.
func (r freeSpace) usable() float64 {
	group := r.blocksPerGroup * r.block
	return max(1-float64(r.inodesEach*r.inodeSize+2*r.block)/float64(group)-1./64, 1./4)
}

// freeSpaceIn reads the superblock at offset, bytes, of an image.
func freeSpaceIn(q *qcow2, offset int64) (freeSpace, error) {
	at := offset + superblockOffset
	clusters := make([]byte, 2*clusterSize) // the superblock may cross from one into the next
	err := q.bytes(at/clusterSize, clusters[:clusterSize])
	if at%clusterSize+superblockSize > clusterSize && err == nil {
		err = q.bytes(at/clusterSize+1, clusters[clusterSize:])
	}
	if err != nil {
		return freeSpace{}, err
	}
	return readFreeSpace(clusters[at%clusterSize:])
}

// readFreeSpace decodes a superblock.
func readFreeSpace(sb []byte) (freeSpace, error) {
	if len(sb) < superblockSize {
		return freeSpace{}, errSuperblock
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
		return freeSpace{}, errSuperblock
	}
	r.block = 1 << (10 + shift)
	r.inodeSize = 128 // in the first revision
	if le.Uint32(sb[sbRevision:]) > 0 {
		r.inodeSize = int64(le.Uint16(sb[sbInodeSize:]))
	}
	return r, nil
}

var errSuperblock = errors.New("damaged superblock")

// takes returns the bytes and inodes that changes add to a file system, without its
// own metadata.
func takes(list []change) (bytes, inodes int64, err error) {
	seen := make(map[fileID]bool)
	for _, c := range list {
		if c.reused {
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

// missing returns about how much larger the disk has to be, bytes.
func (e *NoSpaceError) missing() int64 { return max(e.Bytes-e.FreeBytes, 0) + e.Bytes/20 + 4*mib }

// MoreThan sets Enough for a disk whose size in bytes is too small.
func (e *NoSpaceError) MoreThan(size int64) { e.Enough = roundUp(size+e.missing(), mib) }

// TreeBytes returns about how many bytes the files of a tree need in a file system.
func TreeBytes(dir string) (int64, error) {
	c, err := measure(dir)
	return c.bytes + c.more, err
}

// lacks returns the error that applies if the changes do not fit on a disk of the
// size in bytes. It returns nil if the changes cannot be measured.
func (r freeSpace) lacks(list []change, size int64) *NoSpaceError {
	bytes, inodes, err := takes(list)
	if err != nil {
		return nil
	}
	e := &NoSpaceError{Bytes: bytes, Inodes: inodes, FreeBytes: r.freeBlocks * r.block, FreeInodes: r.freeInodes}
	more := e.missing()
	if groups := (inodes - r.freeInodes + r.inodesEach - 1) / r.inodesEach; groups > 0 {
		have := (r.blocks + r.blocksPerGroup - 1) / r.blocksPerGroup
		more += ((have+groups)*r.blocksPerGroup - r.blocks) * r.block // only a whole group has all its inodes
	}
	e.Enough = roundUp(size+more, mib)
	return e
}

// added returns the number of entries that the changes add to each directory.
func added(list []change) map[string]int {
	n := make(map[string]int)
	for _, c := range list {
		if c.file != "" && c.exists == nil {
			n["/"+filepath.Dir(c.name)]++
		}
	}
	return n
}
