// Package image makes disk images in the qcow2 format: a GPT with one ext4 partition,
// either whole or as the difference to another image. It also reads and changes
// foreign images.
//
// Its output depends only on its input: not on the clock, on random numbers, or on
// the order of a host's directories. It knows neither stages nor the cache.
package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	sector = 512 // bytes, the logical block of GPT
	mib    = 1 << 20

	// PartitionOffset is where the only partition begins, in bytes. Every
	// partitioning tool aligns to 1 MiB.
	PartitionOffset = 1 * mib
)

// linuxFilesystem is the partition type GUID of Linux file system data,
// 0FC63DAF-8483-4772-8E79-3D69D8477DE4, in its order on disk.
var linuxFilesystem = [16]byte{0xAF, 0x3D, 0xC6, 0x0F, 0x83, 0x84, 0x72, 0x47, 0x8E, 0x79, 0x3D, 0x69, 0xD8, 0x47, 0x7D, 0xE4}

// UUID is a UUID of version 8 (vendor-defined content, RFC 9562). It is derived from a
// purpose and a seed, so an image's identifiers follow from its content.
type UUID [16]byte

// NewUUID derives a UUID.
func NewUUID(purpose, seed string) UUID {
	h := sha256.Sum256([]byte(purpose + "\x00" + seed))
	var u UUID
	copy(u[:], h[:])
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}

// String returns the usual form with dashes.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// guid returns the UUID as GPT stores it, the first three fields little-endian.
func (u UUID) guid() [16]byte {
	return [16]byte{u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]}
}

// WriteGPT writes a protective MBR and both copies of a GUID partition table (UEFI
// specification 2.10, chapter 5) to a disk of size bytes. The table has one Linux
// partition, from [PartitionOffset] to 1 MiB before the end of the disk.
func WriteGPT(w io.WriterAt, size int64, seed, label string) error {
	const (
		entries    = 128
		entrySize  = 128
		tableBytes = entries * entrySize
	)
	last := size/sector - 1
	table := make([]byte, tableBytes)
	guid := NewUUID("partition", seed).guid()
	copy(table[0:], linuxFilesystem[:])
	copy(table[16:], guid[:])
	binary.LittleEndian.PutUint64(table[32:], PartitionOffset/sector)
	binary.LittleEndian.PutUint64(table[40:], uint64((size-mib)/sector-1))
	for i, c := range []byte(label) {
		if i < 36 {
			table[56+2*i] = c
		}
	}
	disk := NewUUID("disk", seed).guid()
	header := func(here, other, tableAt int64) []byte {
		var b bytes.Buffer
		b.WriteString("EFI PART")
		for _, x := range []any{
			uint32(0x00010000), uint32(92), uint32(0), uint32(0), uint64(here), uint64(other),
			uint64(2 + tableBytes/sector), uint64(last - 1 - tableBytes/sector), disk,
			uint64(tableAt), uint32(entries), uint32(entrySize), crc32.ChecksumIEEE(table),
		} {
			binary.Write(&b, binary.LittleEndian, x)
		}
		h := b.Bytes()
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h))
		return h
	}
	mbr := make([]byte, sector)
	copy(mbr[446:], []byte{0, 0, 2, 0, 0xEE, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(mbr[454:], 1)
	binary.LittleEndian.PutUint32(mbr[458:], uint32(min(last, 0xffffffff)))
	mbr[510], mbr[511] = 0x55, 0xAA
	for _, p := range []struct {
		at   int64
		data []byte
	}{
		{0, mbr}, {1, header(1, last, 2)}, {2, table},
		{last - tableBytes/sector, table}, {last, header(last, 1, last-tableBytes/sector)},
	} {
		if _, err := w.WriteAt(p.data, p.at*sector); err != nil {
			return fmt.Errorf("write the partition table: %w", err)
		}
	}
	return nil
}
