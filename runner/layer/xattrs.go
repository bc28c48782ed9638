// This file reads extended attributes, and decides which of them belong in a layer.

package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// opaqueXattr marks, in the upper directory of an overlay mounted with
// userxattr, a directory that hides the one below (kernel document
// filesystems/overlayfs).
const opaqueXattr = "user.overlay.opaque"

// xattrRecord is the PAX key prefix that star, GNU tar and bsdtar share.
const xattrRecord = "SCHILY.xattr."

// xattrRecords reads the extended attributes of a file that layers hold: the user's
// own and file capabilities. opaque says that the overlay's attribute is set, which
// becomes a whiteout.
func xattrRecords(file string) (records map[string]string, opaque bool, err error) {
	names, err := listXattrs(file)
	if err != nil {
		return nil, false, err
	}
	for _, name := range names {
		if !preservedXattr(name) && name != opaqueXattr {
			continue
		}
		value := make([]byte, 1<<16) // XATTR_SIZE_MAX, xattr(7)
		n, err := unix.Lgetxattr(file, name, value)
		if err != nil {
			return nil, false, fmt.Errorf("read extended attribute %s: %w", name, err)
		}
		if name == opaqueXattr {
			opaque = opaque || string(value[:n]) == "y"
			continue
		}
		if records == nil {
			records = make(map[string]string)
		}
		records[xattrRecord+name] = string(value[:n])
	}
	return records, opaque, nil
}

// Attributes returns the extended attributes of a file that layers hold, as records of
// a tar archive.
func Attributes(file string) (map[string]string, error) {
	records, _, err := xattrRecords(file)
	return records, err
}

// Attribute returns the name of the extended attribute that a record of a tar archive
// holds. ok is false if the record holds something else.
func Attribute(record string) (name string, ok bool) { return strings.CutPrefix(record, xattrRecord) }

// listXattrs returns the names of a file's extended attributes, sorted.
func listXattrs(file string) ([]string, error) {
	var buf [1024]byte
	list := buf[:]
	n, err := unix.Llistxattr(file, list)
	if errors.Is(err, unix.ERANGE) {
		list = make([]byte, 1<<16) // XATTR_LIST_MAX, xattr(7)
		n, err = unix.Llistxattr(file, list)
	}
	if n == 0 || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	names := strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00")
	sort.Strings(names)
	return names, nil
}

// preservedXattr reports whether an extended attribute belongs to the tree. Others,
// such as the labels of a security module and the overlay's, belong to the host.
func preservedXattr(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// foreignXattr reports whether layers lack an extended attribute. It ignores the ones
// that a security module of the host gives every file.
func foreignXattr(name string) bool {
	return !preservedXattr(name) && !strings.HasPrefix(name, "security.")
}

// removeXattrs removes the extended attributes of a file that match.
func removeXattrs(file string, match func(name string) bool) error {
	names, err := listXattrs(file)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !match(n) {
			continue
		}
		if err := unix.Lremovexattr(file, n); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove extended attribute %s: %w", n, err)
		}
	}
	return nil
}

// Describe returns the entry that a layer has for a file or directory of a tree,
// without the content. It follows no link out of the tree.
func Describe(tree *os.Root, name string) (*tar.Header, error) {
	dir, err := tree.OpenFile(path.Dir(name), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0) // opening a pipe must not block
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fi, err := tree.Lstat(name)
	if err != nil {
		return nil, err
	}
	link := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		if link, err = tree.Readlink(name); err != nil {
			return nil, err
		}
	}
	h, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return nil, err
	}
	h.Name, h.Uname, h.Gname = name, "", ""
	h.PAXRecords, err = Attributes(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), path.Base(name)))
	return h, err
}
