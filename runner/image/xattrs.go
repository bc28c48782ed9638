// This file reads extended attributes. It decides which ones belong in an image and
// which ones debugfs can set.

package image

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// plainXattr matches the names that are safe in a script of debugfs(8): they cannot
// end a command or begin another.
var plainXattr = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// preservedXattr reports whether images, and layers, preserve an extended attribute.
func preservedXattr(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// xattrNames returns the names of a file's extended attributes.
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

// preservedXattrs returns the extended attributes of a file that images preserve,
// values by name.
func preservedXattrs(file string) (map[string]string, error) {
	names, err := xattrNames(file)
	if err != nil {
		return nil, err
	}
	values := make(map[string]string)
	for _, name := range names {
		if !preservedXattr(name) {
			continue
		}
		value := make([]byte, 1<<16) // XATTR_SIZE_MAX, xattr(7)
		n, err := unix.Lgetxattr(file, name, value)
		if err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", name, file, err)
		}
		values[name] = string(value[:n])
	}
	return values, nil
}

func sameXattrs(a, b string) (bool, error) {
	x, err := preservedXattrs(a)
	if err != nil {
		return false, err
	}
	y, err := preservedXattrs(b)
	return maps.Equal(x, y), err
}

// unsupportedXattrs reports whether a file has an extended attribute that no command
// of debugfs can name. name is the file's base name.
func unsupportedXattrs(file, name string) bool {
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
