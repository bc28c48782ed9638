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

// xattrRecords reads what a layer keeps of a file's extended attributes: the
// user's own and file capabilities. The overlay's are turned into whiteouts.
func xattrRecords(file string) (records map[string]string, opaque bool, err error) {
	names, err := listXattrs(file)
	if err != nil {
		return nil, false, err
	}
	for _, name := range names {
		if !keptXattr(name) && name != opaqueXattr {
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

// Attributes are the extended attributes of a file that a layer keeps, as
// records of a tar archive.
func Attributes(file string) (map[string]string, error) {
	records, _, err := xattrRecords(file)
	return records, err
}

// Attribute is the extended attribute's name that a record of a tar archive is
// of, if it is of one.
func Attribute(record string) (name string, ok bool) { return strings.CutPrefix(record, xattrRecord) }

// listXattrs are the names of a file's extended attributes, sorted.
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

// keptXattr tells which extended attributes belong to a tree. Others (labels
// of a security module, the overlay's) belong to the host it lies on.
func keptXattr(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// foreignXattr tells which extended attributes a layer does not keep, but for
// those that a security module of the host gives every file.
func foreignXattr(name string) bool {
	return !keptXattr(name) && !strings.HasPrefix(name, "security.")
}

// removeXattrs removes those extended attributes of a file.
func removeXattrs(file string, which func(name string) bool) error {
	names, err := listXattrs(file)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !which(n) {
			continue
		}
		if err := unix.Lremovexattr(file, n); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove extended attribute %s: %w", n, err)
		}
	}
	return nil
}

// Describe is what a layer says of a file or directory of a tree, but for its
// content. A link in its path that leads out of the tree is not followed.
func Describe(tree *os.Root, name string) (*tar.Header, error) {
	dir, err := tree.OpenFile(path.Dir(name), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0) // a pipe is not waited for
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
