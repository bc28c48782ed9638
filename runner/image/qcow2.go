// This file reads and writes the qcow2 format. It supports only the images that meros
// or QEMU makes by default, and never opens a backing file.

package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// The qcow2 format, docs/interop/qcow2.txt of QEMU. All numbers are
// big-endian.
const (
	qcow2Magic   = 0x514649fb
	clusterBits  = 16 // QEMU's default
	clusterSize  = 1 << clusterBits
	entryCopied  = 1 << 63 // refcount is exactly one
	entryZero    = 1       // the cluster reads as zeros
	offsetMask   = 0x00fffffffffffe00
	compressed   = 1 << 62
	l2PerTable   = clusterSize / 8
	refPerBlock  = clusterSize / 2 // 16 bit refcounts
	headerLength = 104

	// maxVirtual bounds the size of the tables that a hostile header can demand.
	maxVirtual = 64 << 40
)

// cluster says where the content of one guest cluster is stored.
type cluster struct {
	guest int64    // index of the cluster on the virtual disk
	src   *os.File // file that holds it
	off   int64    // offset in that file
	zero  bool     // it reads as zeros, whatever the backing file holds
}

// qcow2 is an open image and its mapping.
type qcow2 struct {
	f       *os.File
	size    int64  // of the virtual disk, bytes
	backing string // name in the header, never opened
	cluster map[int64]cluster
}

// openQcow2 reads the header and tables of an image that meros or QEMU made, without
// trusting them. It refuses compressed or encrypted clusters, snapshots, external
// data files and other cluster sizes.
func openQcow2(file string) (*qcow2, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	q := &qcow2{f: f, cluster: make(map[int64]cluster)}
	if err := q.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("read qcow2 image %s: %w", file, err)
	}
	return q, nil
}

// Close closes the file.
func (q *qcow2) Close() error { return q.f.Close() }

// read reads the header and the mapping.
func (q *qcow2) read() error {
	h := make([]byte, headerLength)
	if _, err := io.ReadFull(io.NewSectionReader(q.f, 0, headerLength), h); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	be := binary.BigEndian
	version := be.Uint32(h[4:])
	switch {
	case be.Uint32(h[0:]) != qcow2Magic:
		return errors.New("not a qcow2 image")
	case version != 3:
		return hint.Add(fmt.Errorf("version %d is not supported", version), "make an image of version 3 with `qemu-img convert -O qcow2`")
	case be.Uint32(h[20:]) != clusterBits:
		return fmt.Errorf("cluster size 2^%d is not supported", be.Uint32(h[20:]))
	case be.Uint32(h[32:]) != 0:
		return errors.New("encrypted images are not supported")
	case be.Uint64(h[72:])&^1 != 0:
		return fmt.Errorf("features %#x are not supported", be.Uint64(h[72:]))
	case be.Uint64(h[72:])&1 != 0:
		return errors.New("not closed cleanly (dirty)")
	case be.Uint32(h[60:]) != 0:
		return errors.New("snapshots are not supported")
	}
	fi, err := q.f.Stat()
	if err != nil {
		return err
	}
	q.size = int64(be.Uint64(h[24:]))
	if q.size < 0 || q.size > maxVirtual {
		return fmt.Errorf("the virtual size, %d bytes, is out of bounds", q.size)
	}
	if n, at := be.Uint32(h[16:]), int64(be.Uint64(h[8:])); at != 0 {
		if n > 1023 || at < 0 || at+int64(n) > clusterSize {
			return errors.New("the backing file's name is out of bounds")
		}
		b := make([]byte, n)
		if _, err := q.f.ReadAt(b, at); err != nil {
			return err
		}
		q.backing = string(b)
	}
	return q.readMap(int64(be.Uint64(h[40:])), int(be.Uint32(h[36:])), fi.Size())
}

// readMap reads the L1 table and the L2 tables.
func (q *qcow2) readMap(l1At int64, l1Len int, fileSize int64) error {
	need := int((q.size + clusterSize*l2PerTable - 1) / (clusterSize * l2PerTable))
	if l1Len < need || l1At < clusterSize || l1At+int64(l1Len)*8 > fileSize {
		return errors.New("the L1 table is out of bounds")
	}
	l1 := make([]byte, need*8)
	if _, err := q.f.ReadAt(l1, l1At); err != nil {
		return err
	}
	l2 := make([]byte, clusterSize)
	seen := make(map[int64]bool)
	for i := range need {
		at := int64(binary.BigEndian.Uint64(l1[8*i:]) & offsetMask)
		if at == 0 {
			continue
		}
		if at%clusterSize != 0 || at+clusterSize > fileSize {
			return fmt.Errorf("L2 table %d is out of bounds", i)
		}
		if seen[at] {
			return fmt.Errorf("L2 table %d is shared with another entry", i) // a small file could map a huge disk
		}
		seen[at] = true
		if _, err := q.f.ReadAt(l2, at); err != nil {
			return err
		}
		for j := range l2PerTable {
			if err := q.add(int64(i)*l2PerTable+int64(j), binary.BigEndian.Uint64(l2[8*j:]), fileSize); err != nil {
				return err
			}
		}
	}
	return nil
}

// add adds the L2 entry e of a guest cluster to the mapping.
func (q *qcow2) add(guest int64, e uint64, fileSize int64) error {
	off := int64(e & offsetMask)
	switch {
	case e == 0:
	case guest*clusterSize >= q.size:
		return fmt.Errorf("cluster %d lies behind the end of the disk", guest)
	case e&compressed != 0:
		return hint.Add(errors.New("compressed clusters are not supported"), "convert it with `qemu-img convert`, without -c")
	case e&entryZero != 0:
		q.cluster[guest] = cluster{guest: guest, zero: true}
	case off == 0:
	case off%clusterSize != 0 || off >= fileSize:
		return fmt.Errorf("cluster %d is out of bounds", guest)
	default:
		q.cluster[guest] = cluster{guest: guest, src: q.f, off: off}
	}
	return nil
}

// bytes reads one guest cluster. Unmapped clusters read as zeros.
func (q *qcow2) bytes(guest int64, buf []byte) error {
	clear(buf)
	c, ok := q.cluster[guest]
	if !ok || c.zero {
		return nil
	}
	_, err := c.src.ReadAt(buf, c.off)
	if err == io.EOF {
		err = nil // the last cluster of a file may be short
	}
	return err
}

// writeQcow2 writes an image with a virtual size in bytes. The clusters must be in
// guest order. The layout is header, refcounts, L1, L2 tables, data in guest order,
// so the same clusters always give the same bytes.
func writeQcow2(dst *os.File, size int64, clusters []cluster, backing string) error {
	nL1 := (size + clusterSize*l2PerTable - 1) / (clusterSize * l2PerTable)
	l1Clusters := max((nL1*8+clusterSize-1)/clusterSize, 1)
	l2Of := make(map[int64]int64) // L1 index to position among the L2 tables
	var l2Order []int64
	data := int64(0)
	for _, c := range clusters {
		if i := c.guest / l2PerTable; len(l2Order) == 0 || l2Order[len(l2Order)-1] != i {
			l2Of[i] = int64(len(l2Order))
			l2Order = append(l2Order, i)
		}
		if !c.zero {
			data++
		}
	}
	fixed := 1 + l1Clusters + int64(len(l2Order)) + data
	refBlocks := int64(1)
	for refBlocks*refPerBlock < fixed+refBlocks+refTable(refBlocks) {
		refBlocks++
	}
	refTables := refTable(refBlocks)
	total := fixed + refBlocks + refTables

	at := func(n int64) int64 { return n * clusterSize }
	refTableAt := at(1)
	refBlockAt := refTableAt + at(refTables)
	l1At := refBlockAt + at(refBlocks)
	l2At := l1At + at(l1Clusters)
	dataAt := l2At + at(int64(len(l2Order)))

	be := binary.BigEndian
	meta := make([]byte, dataAt)
	putHeader(meta, size, int(nL1), l1At, refTableAt, int(refTables), backing)
	for i := range refBlocks {
		be.PutUint64(meta[refTableAt+8*i:], uint64(refBlockAt+at(i)))
	}
	for i := range total {
		be.PutUint16(meta[refBlockAt+2*i:], 1)
	}
	for i, l1 := range l2Order {
		be.PutUint64(meta[l1At+8*l1:], uint64(l2At+at(int64(i)))|entryCopied)
	}
	next := dataAt
	for i, c := range clusters {
		entry := uint64(entryZero)
		if !c.zero {
			entry = uint64(next) | entryCopied
			clusters[i].guest = c.guest
			next += clusterSize
		}
		be.PutUint64(meta[l2At+at(l2Of[c.guest/l2PerTable])+8*(c.guest%l2PerTable):], entry)
	}
	if _, err := dst.WriteAt(meta, 0); err != nil {
		return fmt.Errorf("write qcow2 tables: %w", err)
	}
	if err := dst.Truncate(next); err != nil {
		return err
	}
	return copyClusters(dst, dataAt, clusters)
}

// refTable returns the number of clusters in a refcount table for n blocks.
func refTable(n int64) int64 { return (n*8 + clusterSize - 1) / clusterSize }

// putHeader writes the header to b.
func putHeader(b []byte, size int64, nL1 int, l1At, refTableAt int64, refTables int, backing string) {
	be := binary.BigEndian
	be.PutUint32(b[0:], qcow2Magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[24:], uint64(size))
	be.PutUint32(b[36:], uint32(nL1))
	be.PutUint64(b[40:], uint64(l1At))
	be.PutUint64(b[48:], uint64(refTableAt))
	be.PutUint32(b[56:], uint32(refTables))
	be.PutUint32(b[96:], 4) // refcounts of 2^4 bits
	be.PutUint32(b[100:], headerLength)
	ext := headerLength
	if backing != "" {
		be.PutUint32(b[ext:], 0xe2792aca) // header extension: format of the backing file
		be.PutUint32(b[ext+4:], 5)
		copy(b[ext+8:], "qcow2")
		ext += 16
	}
	ext += 8 // end of extensions
	if backing != "" {
		be.PutUint64(b[8:], uint64(ext))
		be.PutUint32(b[16:], uint32(len(backing)))
		copy(b[ext:], backing)
	}
}

// copyClusters writes the data clusters one after another, beginning at at. It copies
// adjacent clusters in one call.
func copyClusters(dst *os.File, at int64, clusters []cluster) error {
	for i := 0; i < len(clusters); {
		c := clusters[i]
		i++
		if c.zero {
			continue
		}
		n := int64(clusterSize)
		for i < len(clusters) && !clusters[i].zero && clusters[i].src == c.src && clusters[i].off == c.off+n {
			n += clusterSize
			i++
		}
		if err := copyRange(dst, at, c.src, c.off, n); err != nil {
			return fmt.Errorf("write qcow2 data: %w", err)
		}
		at += n
	}
	return nil
}

// copyRange copies n bytes, or fewer if src ends before; the rest stays zero. The
// kernel copies them, and shares blocks if the file system can.
func copyRange(dst *os.File, to int64, src *os.File, from, n int64) error {
	for n > 0 {
		k, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(n), 0)
		if err == unix.EXDEV || err == unix.EINVAL || err == unix.EOPNOTSUPP || err == unix.ENOSYS {
			_, err = io.Copy(io.NewOffsetWriter(dst, to), io.NewSectionReader(src, from, n))
			return err
		}
		if err != nil {
			return err
		}
		if k == 0 {
			return nil
		}
		n -= int64(k)
	}
	return nil
}

// rawClusters returns the clusters of a raw image that are not all zeros.
func rawClusters(f *os.File, size int64) ([]cluster, error) {
	var cs []cluster
	buf := make([]byte, 16*clusterSize)
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return nil, err
		}
		at = data / clusterSize * clusterSize
		end, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		for at < end {
			n, err := f.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
			if err != nil && err != io.EOF {
				return nil, err
			}
			for o := 0; o < n; o += clusterSize {
				if !isZero(buf[o:min(o+clusterSize, n)]) {
					cs = append(cs, cluster{guest: (at + int64(o)) / clusterSize, src: f, off: at + int64(o)})
				}
			}
			at += int64(n)
			if n == 0 {
				break
			}
		}
	}
	return cs, nil
}

var zeroCluster [clusterSize]byte

// isZero reports whether b, at most one cluster, is all zeros.
func isZero(b []byte) bool { return string(b) == string(zeroCluster[:len(b)]) }
