// Package guest writes the files that give a Linux system its identity: its
// accounts, its name and its network. It does not know manifests or machines.
package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// accountFiles lists the files that hold accounts, with the modes that base-passwd
// and shadow give them.
var accountFiles = []struct {
	name string
	mode int64
	gid  int // Debian's base-passwd gives group shadow the id 42
}{
	{"etc/passwd", 0o644, 0}, {"etc/group", 0o644, 0}, {"etc/shadow", 0o640, 42}, {"etc/gshadow", 0o640, 42},
	{"etc/subuid", 0o644, 0}, {"etc/subgid", 0o644, 0},
}

// skel is the template of a new home directory, useradd(8).
const skel = "etc/skel"

// maxAccountFile bounds the size of an account file, bytes.
const maxAccountFile = 1 << 20

// WriteAccounts writes an archive of the account files, /etc/fstab, /etc/hosts and
// /etc/skel, as far as the tree has them. The tree may be the upper directory of an
// overlay; the archive holds a device for each file that the overlay removes. A
// machine's own layer depends on nothing else of a layer: if this archive is
// unchanged, so is that layer.
func WriteAccounts(w io.Writer, tree string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	tw := tar.NewWriter(w)
	var names []string
	for _, f := range accountFiles {
		names = append(names, f.name)
	}
	names = append(names, fstab, hosts, skel)
	for _, n := range listIn(root, skel) {
		names = append(names, path.Join(skel, n))
	}
	for _, name := range names {
		if removes(root, name) || name == skel && opaque(root, name) {
			if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeChar, Format: tar.FormatPAX}); err != nil {
				return err
			}
			continue
		}
		b, mode, err := readIn(root, name)
		if err != nil {
			continue // it holds no accounts
		}
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: int64(mode.Perm()), Size: int64(len(b)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := tw.Write(b); err != nil {
			return err
		}
	}
	return tw.Close()
}

// removes reports whether a layer has a whiteout at a path (kernel document
// filesystems/overlayfs).
func removes(root *os.Root, name string) bool {
	fi, err := root.Lstat(name)
	return err == nil && fi.Mode()&os.ModeCharDevice != 0 && fi.Sys().(*syscall.Stat_t).Rdev == 0
}

// opaque reports whether a directory of a layer hides the directory below it.
func opaque(root *os.Root, dir string) bool {
	d, err := root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer d.Close()
	n, err := unix.Fgetxattr(int(d.Fd()), "user.overlay.opaque", make([]byte, 8))
	return err == nil && n > 0
}

// listIn returns the names in a directory of a tree, sorted. It returns none if dir
// is not a directory, or a link out of the tree.
func listIn(root *os.Root, dir string) []string {
	d, err := root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	slices.Sort(names)
	return names
}

// readIn reads a small regular file of a tree that may be hostile. It does not
// follow a link at the end of the path, never leaves the tree, and never blocks.
func readIn(root *os.Root, name string) ([]byte, os.FileMode, error) {
	fi, err := root.Lstat(name)
	if err != nil {
		return nil, 0, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxAccountFile {
		return nil, 0, fmt.Errorf("%s: not a regular file of at most %d bytes", name, maxAccountFile)
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAccountFile))
	return b, fi.Mode(), err
}

// ReadAccounts reads the accounts of a system in a tree, which may be hostile.
func ReadAccounts(tree string) (Accounts, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	a := make(Accounts)
	for _, f := range accountFiles {
		if b, _, err := readIn(root, f.name); err == nil {
			a[f.name] = b
		}
	}
	return a, nil
}

// Accounts holds the account files of a system, by path.
type Accounts map[string][]byte

// Read applies an archive of [WriteAccounts] to a.
func (a Accounts) Read(r io.Reader) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read accounts: %w", err)
		}
		if h.Typeflag == tar.TypeChar {
			maps.DeleteFunc(a, func(name string, _ []byte) bool { return name == h.Name || strings.HasPrefix(name, h.Name+"/") })
			continue
		}
		if a[h.Name], err = io.ReadAll(io.LimitReader(tr, maxAccountFile)); err != nil {
			return fmt.Errorf("read accounts: %w", err)
		}
	}
}

// Lookup returns the id of a user or group. kind is "user" or "group".
func (a Accounts) Lookup(kind, name string) (int, error) {
	file := "etc/passwd"
	if kind == "group" {
		file = "etc/group"
	}
	for line := range bytes.Lines(a[file]) {
		f := strings.Split(strings.TrimSpace(string(line)), ":")
		if len(f) > 2 && f[0] == name {
			id, err := strconv.Atoi(f[2])
			if err != nil || id < 0 {
				return 0, fmt.Errorf("%s %q has the invalid id %q", kind, name, f[2])
			}
			return id, nil
		}
	}
	return 0, &unknownAccount{kind, name}
}

type unknownAccount struct{ kind, name string }

func (e *unknownAccount) Error() string {
	return fmt.Sprintf("the system has no %s %q", e.kind, e.name)
}

// Shell returns the login shell of root, or "/bin/sh" if root has none. Only the
// system itself knows which shells it has.
func (a Accounts) Shell() string {
	for line := range strings.Lines(string(a["etc/passwd"])) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if f[0] == "root" && len(f) == 7 && path.IsAbs(f[6]) && !slices.Contains(noShells, path.Base(f[6])) {
			return f[6]
		}
	}
	return "/bin/sh"
}

// Homes returns the home directories of ordinary users, without a leading /.
func (a Accounts) Homes() (homes []string) {
	for line := range strings.Lines(string(a["etc/passwd"])) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 7 || !path.IsAbs(f[5]) {
			continue
		}
		id, err := strconv.Atoi(f[2])
		if home := path.Clean(f[5])[1:]; err == nil && id >= firstUser && id < nobody && home != "" {
			homes = append(homes, home)
		}
	}
	return homes
}

// nobody is the id of the user without rights.
const nobody = 65534

// noShells lists the login shells that refuse a login.
var noShells = []string{"nologin", "false"}

// isUnknown reports whether err is a missing account, and not a damaged one.
func isUnknown(err error) bool {
	e := (*unknownAccount)(nil)
	return errors.As(err, &e)
}

// firstUser is the first id of an ordinary user, login.defs(5).
const firstUser = 1000

// AddUser adds an ordinary user with its own group, no password and that shell, and
// returns its ids and home directory. An existing user of that name stays
// unchanged. days is the date of the last change of the password, in days since
// 1970.
func (a Accounts) AddUser(name, shell string, days int64) (uid, gid int, home string, err error) {
	if uid, err = a.Lookup("user", name); err == nil {
		for line := range bytes.Lines(a["etc/passwd"]) {
			if f := strings.Split(strings.TrimSpace(string(line)), ":"); f[0] == name && len(f) == 7 {
				gid, err = strconv.Atoi(f[3])
				return uid, gid, f[5], err
			}
		}
		return 0, 0, "", fmt.Errorf("the account of %s in etc/passwd is damaged", name)
	}
	if !isUnknown(err) {
		return 0, 0, "", err
	}
	if gid, err = a.Lookup("group", name); err != nil {
		if !isUnknown(err) {
			return 0, 0, "", err
		}
		gid = a.free("etc/group")
		a.add("etc/group", fmt.Sprintf("%s:x:%d:", name, gid))
		a.add("etc/gshadow", name+":!::")
	}
	uid = a.free("etc/passwd")
	home = "/home/" + name
	a.add("etc/passwd", fmt.Sprintf("%s:x:%d:%d::%s:%s", name, uid, gid, home, shell))
	// "*" is not a valid hash: a key opens the account, no password does, crypt(5).
	a.add("etc/shadow", fmt.Sprintf("%s:*:%d:0:99999:7:::", name, days))
	return uid, gid, home, nil
}

// free returns the lowest unused id of an ordinary user or group.
func (a Accounts) free(file string) int {
	used := make(map[int]bool)
	for line := range bytes.Lines(a[file]) {
		if f := strings.Split(string(line), ":"); len(f) > 2 {
			if id, err := strconv.Atoi(f[2]); err == nil {
				used[id] = true
			}
		}
	}
	id := firstUser
	for used[id] {
		id++
	}
	return id
}

func (a Accounts) add(file, line string) {
	b := slices.Clip(a[file]) // the caller may own the array beyond it
	if len(b) > 0 && b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	a[file] = append(b, line+"\n"...)
}

// Files returns the account files and the files of a home directory, for a layer.
func (a Accounts) Files(uid, gid int, home string) []File {
	var fs []File
	for _, f := range accountFiles {
		if b, ok := a[f.name]; ok {
			fs = append(fs, File{Path: f.name, Mode: f.mode, GID: f.gid, Data: b})
		}
	}
	home = strings.TrimPrefix(home, "/")
	fs = append(fs, File{Path: home, Mode: 0o700, UID: uid, GID: gid, Dir: true})
	var names []string
	for name := range a {
		if strings.HasPrefix(name, skel+"/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		fs = append(fs, File{Path: path.Join(home, path.Base(name)), Mode: 0o644, UID: uid, GID: gid, Data: a[name]})
	}
	return fs
}
