// This file writes files with holes.

package layer

import "os"

// SparseWriter writes to a file and leaves holes for blocks of zeros. A layer with a
// sparse file of 5 GB does not take 5 GB of disk.
type SparseWriter struct {
	f   *os.File
	buf []byte
	at  int64 // offset of buf in the file
}

// NewSparseWriter writes to f from its beginning; f must be empty.
func NewSparseWriter(f *os.File) *SparseWriter {
	return &SparseWriter{f: f, buf: make([]byte, 0, sparseBlock)}
}

// Write implements io.Writer.
func (s *SparseWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), sparseBlock-len(s.buf))
		s.buf = append(s.buf, p[:k]...)
		p = p[k:]
		if len(s.buf) == sparseBlock {
			if err := s.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// flush writes the buffer unless it is all zeros.
func (s *SparseWriter) flush() error {
	if string(s.buf) != string(zeros[:len(s.buf)]) {
		if _, err := s.f.WriteAt(s.buf, s.at); err != nil {
			return err
		}
	}
	s.at += int64(len(s.buf))
	s.buf = s.buf[:0]
	return nil
}

// Close writes the rest and sets the file's size. It does not close the file.
func (s *SparseWriter) Close() error {
	if err := s.flush(); err != nil {
		return err
	}
	return s.f.Truncate(s.at)
}
