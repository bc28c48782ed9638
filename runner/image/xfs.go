// This file makes an empty XFS reproducible.

package image

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"time"
)

// Offsets in the superblock and in an inode of version 3, big-endian: struct xfs_dsb
// and struct xfs_dinode of the kernel's fs/xfs/libxfs/xfs_format.h.
const (
	xfsBlockSize  = 4
	xfsInodes     = 56 // of the root, the realtime bitmap and its summary, 8 bytes each
	xfsAGBlocks   = 84
	xfsInodeSize  = 104
	xfsInodeShift = 123 // log2 of inodes per block
	xfsAGShift    = 124 // log2 of blocks per allocation group, rounded up

	inodeVersion = 4
	inodeCRC     = 100
	inodeFlags2  = 120
	inodeBigtime = 1 << 3 // nanoseconds since 2^31 seconds before 1970
)

// inodeTimes lists the offsets of the times of access, modification, change and
// birth.
var inodeTimes = []int{32, 40, 48, 144}

// stampXFS sets all times in an empty XFS to epoch. Before version 6.17, mkfs.xfs
// ignores SOURCE_DATE_EPOCH and uses the clock.
func stampXFS(disk interface {
	io.ReaderAt
	io.WriterAt
}, epoch time.Time) error {
	be := binary.BigEndian
	sb := make([]byte, sector)
	if _, err := disk.ReadAt(sb, 0); err != nil {
		return err
	}
	block, size := int64(be.Uint32(sb[xfsBlockSize:])), int64(be.Uint16(sb[xfsInodeSize:]))
	shift, agShift := uint(sb[xfsInodeShift]), uint(sb[xfsAGShift])
	if string(sb[:4]) != "XFSB" || size < 256 || shift > 16 || agShift > 32 {
		return errors.New("mkfs.xfs: unexpected superblock")
	}
	for i := range 3 {
		number := be.Uint64(sb[xfsInodes+8*i:])
		group, in := int64(number>>(agShift+shift)), int64(number>>shift)&(1<<agShift-1)
		at := (group*int64(be.Uint32(sb[xfsAGBlocks:]))+in)*block + int64(number&(1<<shift-1))*size
		b := make([]byte, size)
		if _, err := disk.ReadAt(b, at); err != nil {
			return err
		}
		if string(b[:2]) != "IN" || b[inodeVersion] != 3 {
			return errors.New("mkfs.xfs: unexpected version of inodes")
		}
		t := uint64(epoch.Unix())<<32 | uint64(epoch.Nanosecond())
		if be.Uint64(b[inodeFlags2:])&inodeBigtime != 0 {
			t = uint64(epoch.UnixNano() + int64(1<<31*time.Second))
		}
		for _, place := range inodeTimes {
			if be.Uint64(b[place:]) != 0 {
				be.PutUint64(b[place:], t)
			}
		}
		clear(b[inodeCRC : inodeCRC+4])
		binary.LittleEndian.PutUint32(b[inodeCRC:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
		if _, err := disk.WriteAt(b, at); err != nil {
			return err
		}
	}
	return nil
}
