// This file lists the members of an ar archive, the outer format of a package.

package debian

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ar(5) as deb(5) restricts it: plain names of at most 15 characters.
const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
	arEnd        = "`\n"

	// maxArMembers limits the work for a hostile archive. A package has three
	// members, and perhaps a few more whose names begin with _.
	maxArMembers = 32
)

// member is a file in an ar archive.
type member struct {
	name         string
	offset, size int64
}

// readAr returns the members of an archive of size bytes. It rejects members that
// reach beyond the archive's end.
func readAr(r io.ReaderAt, size int64) ([]member, error) {
	magic := make([]byte, len(arMagic))
	if _, err := r.ReadAt(magic, 0); err != nil || string(magic) != arMagic {
		return nil, errors.New("is not an ar archive")
	}
	var members []member
	for at := int64(len(arMagic)); at < size; {
		if len(members) == maxArMembers {
			return nil, fmt.Errorf("has more than %d members", maxArMembers)
		}
		header := make([]byte, arHeaderSize)
		if _, err := r.ReadAt(header, at); err != nil {
			return nil, fmt.Errorf("ends within the header of member %d", len(members)+1)
		}
		if string(header[58:60]) != arEnd {
			return nil, fmt.Errorf("the header of member %d is damaged", len(members)+1)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
		n, err := strconv.ParseInt(strings.TrimRight(string(header[48:58]), " "), 10, 64)
		at += arHeaderSize
		if name == "" || err != nil || n < 0 {
			return nil, fmt.Errorf("the header of member %d is damaged", len(members)+1)
		}
		if n > size-at {
			return nil, fmt.Errorf("is truncated: member %q should have %d bytes, but only %d are left", name, n, size-at)
		}
		members = append(members, member{name: name, offset: at, size: n})
		at += n + n%2
	}
	return members, nil
}
