// This file removes the traces that an installation of packages leaves in a tree.

package debian

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// volatile lists the files that only the installation itself needs, or that
// record its time. Each entry is a pattern of path.Match.
var volatile = []string{
	"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
	"var/lib/dpkg/*-old", "var/cache/debconf/*-old", "var/cache/apt/*.bin", "var/cache/apt/archives/*", "var/cache/apt/archives/partial/*",
	"var/lib/apt/lists/*", "var/log/*.log", "var/log/apt/*", "var/log/journal/*", "run/*", "tmp/*", "var/tmp/*", "dev/*",
}

// packaged lists directories that match those patterns but belong to packages.
var packaged = []string{"var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "run/lock"}

// maxShadow limits the size of shadow(5), bytes.
const maxShadow = 1 << 20

// lastChange is the index of the field with the day of the last change in
// shadow(5).
const lastChange = 2

// Clean removes the files that an installation of packages leaves and that nobody
// needs. It does not change modification times: the caller clamps them when it
// archives the tree.
func Clean(tree string, epoch time.Time) error {
	r, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, pattern := range volatile {
		if err := removeMatching(r, pattern); err != nil {
			return fmt.Errorf("clean %s: %w", pattern, err)
		}
	}
	if err := clampShadow(r, epoch); err != nil {
		return fmt.Errorf("clean etc/shadow: %w", err)
	}
	return nil
}

func removeMatching(r *os.Root, pattern string) error {
	dir, base := path.Split(pattern)
	f, err := r.OpenFile(path.Clean(dir), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		ok, err := path.Match(base, e.Name())
		if err != nil {
			return err
		}
		if !ok || slices.Contains(packaged, name) {
			continue
		}
		if err := r.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

// clampShadow replaces the days after epoch in etc/shadow, which are days of the
// build, by epoch's day.
func clampShadow(r *os.Root, epoch time.Time) error {
	const name = "etc/shadow"
	fi, err := r.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxShadow {
		return fmt.Errorf("is not a regular file of at most %d bytes", maxShadow)
	}
	data, err := r.ReadFile(name)
	if err != nil {
		return err
	}
	last := epoch.Unix() / 86400
	changed := false
	lines := strings.SplitAfter(string(data), "\n")
	for i, l := range lines {
		f := strings.Split(l, ":")
		if len(f) <= lastChange {
			continue
		}
		if day, err := strconv.ParseInt(f[lastChange], 10, 64); err == nil && day > last {
			f[lastChange] = strconv.FormatInt(last, 10)
			lines[i], changed = strings.Join(f, ":"), true
		}
	}
	if !changed {
		return nil
	}
	f, err := r.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(lines, ""))
	return errors.Join(err, f.Close())
}
