package image

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// plainXattr is a name that can be no other command of debugfs(8).
var plainXattr = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// keptXattr tells which extended attributes an image has, as a layer does.
func keptXattr(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// xattrNames are the names of a file's extended attributes.
func xattrNames(file string) ([]string, error) {
	var short [512]byte
	buf := short[:]
	n, err := unix.Llistxattr(file, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 1<<16) // XATTR_LIST_MAX, xattr(7)
		n, err = unix.Llistxattr(file, buf)
	}
	if n == 0 || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes of %s: %w", file, err)
	}
	return strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00"), nil
}

// keptXattrs are the extended attributes that an image has of a file.
func keptXattrs(file string) (map[string]string, error) {
	names, err := xattrNames(file)
	if err != nil {
		return nil, err
	}
	kept := make(map[string]string)
	for _, name := range names {
		if !keptXattr(name) {
			continue
		}
		value := make([]byte, 1<<16) // XATTR_SIZE_MAX, xattr(7)
		n, err := unix.Lgetxattr(file, name, value)
		if err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", name, file, err)
		}
		kept[name] = string(value[:n])
	}
	return kept, nil
}

func sameXattrs(a, b string) (bool, error) {
	x, err := keptXattrs(a)
	if err != nil {
		return false, err
	}
	y, err := keptXattrs(b)
	return maps.Equal(x, y), err
}

// oddXattrs tells whether a file has extended attributes whose names debugfs
// cannot be told.
func oddXattrs(file, name string) bool {
	names, err := xattrNames(file)
	if err != nil {
		return true
	}
	for _, x := range names {
		if !plainXattr.MatchString(x) || len(x)+len(quoted(name)) > maxCommand-32 {
			return true
		}
	}
	return false
}
