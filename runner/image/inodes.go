// This file makes the inodes of an ext4 file system reproducible. It writes to them
// directly, because mke2fs copies times from the tree that nobody can set.

package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// Offsets in ext4's structures, kernel document filesystems/ext4.
const (
	superblockOffset = 1024
	superblockSize   = 1024
	sbInodesCount    = 0x00
	sbBlocks         = 0x04
	sbFreeBlocks     = 0x0C
	sbFreeInodes     = 0x10
	sbLogBlockSize   = 0x18
	sbBlocksPerGroup = 0x20
	sbInodesPerGroup = 0x28
	sbMagic          = 0x38
	sbRevision       = 0x4C
	sbInodeSize      = 0x58
	sbIncompatible   = 0x60
	sbUUID           = 0x68
	sbDescSize       = 0xFE
	sbBlocksHigh     = 0x150
	sbFreeBlocksHigh = 0x158
	gdInodeTableLow  = 0x08
	gdUnusedLow      = 0x1C
	gdInodeTableHigh = 0x28
	gdUnusedHigh     = 0x32
	inAtime          = 0x08
	inCtime          = 0x0C
	inMtime          = 0x10
	inGeneration     = 0x64
	inChecksumLow    = 0x7C
	inExtraSize      = 0x80
	inChecksumHigh   = 0x82
	inCtimeExtra     = 0x84
	inMtimeExtra     = 0x88
	inAtimeExtra     = 0x8C
	inCrtime         = 0x90
	inCrtimeExtra    = 0x94

	incompatible64bit = 0x80

	attributesMagic = 0xEA020000 // begins the extended attributes in an inode
)

// settleInodes sets all times of every inode in the ext4 file system of f to the
// inode's modification time. mke2fs -d copies the time of the last status change, which
// nobody can set. Two equal trees would give different images.
func settleInodes(f *os.File) error {
	sb := make([]byte, superblockSize)
	if _, err := f.ReadAt(sb, PartitionOffset+superblockOffset); err != nil {
		return err
	}
	le := binary.LittleEndian
	if le.Uint16(sb[sbMagic:]) != 0xEF53 || le.Uint16(sb[sbInodeSize:]) != inodeSize || le.Uint32(sb[sbLogBlockSize:]) != 2 {
		return errors.New("mke2fs: unexpected magic number, inode size or block size")
	}
	perGroup := int64(le.Uint32(sb[sbInodesPerGroup:]))
	groups := int64(le.Uint32(sb[sbInodesCount:])) / perGroup
	descSize := int64(le.Uint16(sb[sbDescSize:]))
	seed := rawCRC(0xffffffff, sb[sbUUID:sbUUID+16])
	desc := make([]byte, groups*descSize)
	if _, err := f.ReadAt(desc, PartitionOffset+blockSize); err != nil {
		return err
	}
	for g := range groups {
		d := desc[g*descSize:]
		table := int64(le.Uint32(d[gdInodeTableLow:])) | int64(le.Uint32(d[gdInodeTableHigh:]))<<32
		unused := int64(le.Uint16(d[gdUnusedLow:])) | int64(le.Uint16(d[gdUnusedHigh:]))<<16
		if err := settleTable(f, PartitionOffset+table*blockSize, perGroup-unused, g*perGroup+1, seed); err != nil {
			return fmt.Errorf("inode table of group %d: %w", g, err)
		}
	}
	return nil
}

// settleTable rewrites the n inodes at an offset of f. first is the number of the
// first one.
func settleTable(f *os.File, at, n, first int64, seed uint32) error {
	if n <= 0 {
		return nil
	}
	table := make([]byte, n*inodeSize)
	if _, err := f.ReadAt(table, at); err != nil {
		return err
	}
	for i := range n {
		in := table[i*inodeSize : (i+1)*inodeSize]
		if isZero(in) {
			continue
		}
		settleInode(in)
		clearNoAttributes(in)
		sumInode(in, uint32(first+i), seed)
	}
	_, err := f.WriteAt(table, at)
	return err
}

// settleInode copies the modification time to the other times, and its nanoseconds
// if the inode is large enough for them.
func settleInode(in []byte) {
	le := binary.LittleEndian
	for _, o := range []int{inAtime, inCtime} {
		copy(in[o:o+4], in[inMtime:])
	}
	if le.Uint16(in[inExtraSize:]) < inCrtimeExtra+4-inExtraSize {
		return
	}
	copy(in[inCrtime:inCrtime+4], in[inMtime:])
	for _, o := range []int{inAtimeExtra, inCtimeExtra, inCrtimeExtra} {
		copy(in[o:o+4], in[inMtimeExtra:])
	}
}

// clearNoAttributes clears the remains of removed extended attributes in an inode: a
// header without an entry, and the old values.
func clearNoAttributes(in []byte) {
	le := binary.LittleEndian
	at := inExtraSize + int(le.Uint16(in[inExtraSize:]))
	if at+8 <= len(in) && le.Uint32(in[at:]) == attributesMagic && le.Uint32(in[at+4:]) == 0 {
		clear(in[at:])
	}
}

// sumInode sets the inode's checksum. A small inode has only its lower half.
func sumInode(in []byte, number, seed uint32) {
	le := binary.LittleEndian
	high := le.Uint16(in[inExtraSize:]) >= inChecksumHigh+2-inExtraSize
	le.PutUint16(in[inChecksumLow:], 0)
	if high {
		le.PutUint16(in[inChecksumHigh:], 0)
	}
	var n [4]byte
	le.PutUint32(n[:], number)
	crc := rawCRC(rawCRC(rawCRC(seed, n[:]), in[inGeneration:inGeneration+4]), in)
	le.PutUint16(in[inChecksumLow:], uint16(crc))
	if high {
		le.PutUint16(in[inChecksumHigh:], uint16(crc>>16))
	}
}

// rawCRC computes crc32c as ext4 chains it, without the inversions of RFC 3720.
func rawCRC(crc uint32, b []byte) uint32 {
	return ^crc32.Update(^crc, crc32.MakeTable(crc32.Castagnoli), b)
}
