package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrRepack says that a difference is better, or only, made by packing the
// whole tree anew.
var ErrRepack = errors.New("the difference is too large or too odd to be applied to an image")

// ErrNoRoom is the [ErrRepack] of an image that has no room for the difference.
var ErrNoRoom = fmt.Errorf("%w: it has no room", ErrRepack)

// odd is the [ErrRepack] of a path.
func odd(name, why string) error { return fmt.Errorf("%w: /%s %s", ErrRepack, name, why) }

// Past these a whole new image is made faster than a difference is applied.
const (
	maxChanges     = 1500
	maxChangeBytes = 96 * mib
	maxCommand     = 240 // bytes; debugfs reads its commands in lines of 256
)

// change is what becomes of one path of the base.
type change struct {
	name   string // relative path
	file   string // what it is to be, in an unpacked layer; empty if removed
	fi     fs.FileInfo
	exists fs.FileInfo // what is there in the base, or nil
	was    string      // its file, if exists
	kept   bool        // what is there stays, and becomes what the file is but for its content
}

// changes is the difference that layers, unpacked as overlay directories and
// applied in order, make to the tree base: in the order in which to apply it.
// all says that there is no other way, however many there are and however odd.
func changes(base string, layers []string, all bool) ([]change, error) {
	final, below := make(map[string]change), tree{base, make(map[string]bool)}
	bytes := int64(0)
	for _, layer := range layers {
		err := filepath.WalkDir(layer, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name, err := filepath.Rel(layer, file)
			if err != nil || name == "." {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			if fi.Mode().IsRegular() {
				bytes += fi.Size() // a directory's size is the host's affair
			}
			if !all && (len(final) > maxChanges || bytes > maxChangeBytes) {
				return ErrRepack
			}
			return enter(final, below, name, file, fi, all)
		})
		if err != nil {
			return nil, err
		}
	}
	if !all && len(final) > maxChanges {
		return nil, ErrRepack
	}
	var list []change
	for _, c := range final {
		if fi, err := below.lstat(c.name); err == nil {
			c.exists, c.was = fi, filepath.Join(base, c.name)
		}
		var err error
		if c.kept, err = c.keeps(); err != nil {
			return nil, err
		}
		if !all && c.loses() {
			return nil, odd(c.name, "had extended attributes")
		}
		if c.needed() {
			list = append(list, c)
		}
		if why := c.odd(); why != "" {
			return nil, odd(c.name, why)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list, nil
}

// tree is a directory that nobody changes, with what is known of those in it: to
// be there for debugfs, which follows no links, a path must lead through
// directories alone.
type tree struct {
	dir  string
	dirs map[string]bool
}

func (t tree) lstat(name string) (fs.FileInfo, error) {
	if !t.isDir(filepath.Dir(name)) {
		return nil, fs.ErrNotExist
	}
	return os.Lstat(filepath.Join(t.dir, name))
}

func (t tree) isDir(name string) bool {
	if name == "." {
		return true
	}
	is, known := t.dirs[name]
	if !known {
		fi, err := t.lstat(name)
		is = err == nil && fi.IsDir()
		t.dirs[name] = is
	}
	return is
}

// enter notes what an entry of a layer makes of the layers before it, and of
// the base.
func enter(final map[string]change, base tree, name, file string, fi fs.FileInfo, all bool) error {
	st := fi.Sys().(*syscall.Stat_t)
	if fi.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0 {
		final[name] = change{name: name}
		return hide(final, base, name)
	}
	if fi.IsDir() {
		if before := final[name]; before.file != "" && !before.fi.IsDir() {
			return odd(name, "is a file in one layer and a directory in the next")
		}
		final[name] = change{name: name, file: file, fi: fi}
		if n, err := unix.Lgetxattr(file, "user.overlay.opaque", make([]byte, 8)); err == nil && n > 0 {
			return hide(final, base, name)
		}
		return nil
	}
	if st.Nlink > 1 && !all {
		return odd(name, "has hard links")
	}
	if before := final[name]; before.file != "" && before.fi.IsDir() {
		return odd(name, "is a directory in one layer and a file in the next")
	}
	final[name] = change{name: name, file: file, fi: fi}
	if was, err := base.lstat(name); err != nil || !was.IsDir() {
		return nil
	}
	return hide(final, base, name)
}

// hide notes that nothing is left of what was below a directory, in layers and
// in the base: debugfs has to remove it one by one.
func hide(final map[string]change, base tree, name string) error {
	for other := range final {
		if strings.HasPrefix(other, name+"/") {
			delete(final, other)
		}
	}
	if fi, err := base.lstat(name); err != nil || !fi.IsDir() {
		return nil
	}
	top := filepath.Join(base.dir, name)
	return filepath.WalkDir(top, func(file string, _ fs.DirEntry, err error) error {
		if err != nil || file == top {
			return err
		}
		rel, err := filepath.Rel(base.dir, file)
		final[rel] = change{name: rel}
		return err
	})
}

// keeps tells whether only what is said of a file differs, and not what is in
// it. Then it keeps what an image of somebody else's says of it beyond what a
// layer does: labels of a security module, for one. A further name of the file
// would change with it.
func (c change) keeps() (bool, error) {
	if c.file == "" || c.exists == nil || c.fi.Mode().Type() != c.exists.Mode().Type() {
		return false, nil
	}
	switch c.fi.Mode().Type() {
	case fs.ModeDir:
		return true, nil
	case fs.ModeSymlink:
		a, err := os.Readlink(c.file)
		b, berr := os.Readlink(c.was)
		return a == b && c.exists.Sys().(*syscall.Stat_t).Nlink == 1, errors.Join(err, berr)
	case 0:
		if c.fi.Size() == c.exists.Size() && c.exists.Sys().(*syscall.Stat_t).Nlink == 1 {
			return sameContent(c.file, c.was)
		}
	}
	return false, nil
}

// loses tells whether a file goes whose attributes may have a block of their
// own: debugfs would leave that in use. The attributes of a program, which are
// its capabilities, are within its inode.
func (c change) loses() bool {
	if c.exists == nil || c.kept || c.exists.Mode()&fs.ModeSymlink != 0 {
		return false
	}
	had, err := keptXattrs(c.was)
	delete(had, "security.capability")
	return err != nil || len(had) > 0
}

func sameContent(a, b string) (bool, error) {
	f, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer g.Close()
	x, y := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(f, x)
		m, berr := io.ReadFull(g, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if err != nil || berr != nil { // most likely the end
			return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), nil
		}
	}
}

// needed is false for a removal of what is not there and for a directory that
// stays as it is.
func (c change) needed() bool {
	if c.file == "" {
		return c.exists != nil
	}
	if !c.kept || !c.fi.IsDir() {
		return true
	}
	if same, err := sameXattrs(c.file, c.was); err != nil || !same {
		return true
	}
	a, b := c.fi.Sys().(*syscall.Stat_t), c.exists.Sys().(*syscall.Stat_t)
	return a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim.Sec != b.Mtim.Sec
}

// odd is what debugfs cannot do, or cannot be told to do, of a change, or "".
func (c change) odd() string {
	if why := unnameable(c.name); why != "" || c.file == "" {
		return why
	}
	switch c.fi.Mode().Type() {
	case 0, fs.ModeDir:
		if oddXattrs(c.file, path.Base(c.name)) || c.kept && oddXattrs(c.was, path.Base(c.name)) {
			return "has an odd extended attribute"
		}
		return ""
	case fs.ModeSymlink:
		to, err := os.Readlink(c.file)
		if err != nil || strings.ContainsAny(to, lineEnds) || len(quoted(to))+len(quoted(path.Base(c.name))) > maxCommand-32 {
			return "is a link that leads to an odd name"
		}
		return ""
	}
	return "is a device, a socket or a pipe"
}

// lineEnds end a line of a script of debugfs(8).
const lineEnds = "\r\n"

// unnameable is why debugfs cannot be told a path, or "".
func unnameable(name string) string {
	for part := range strings.SplitSeq(name, "/") {
		if strings.ContainsAny(part, lineEnds) {
			return "has the end of a line in its name"
		}
		if strings.HasPrefix(part, "<") && strings.HasSuffix(part, ">") {
			return "has a name that debugfs takes for the number of an inode"
		}
		if len(quoted(part)) > maxCommand-32 {
			return "has a name that is too long"
		}
	}
	return ""
}

// quoted is an argument of a command of debugfs(8): libss knows no other escape
// than the doubled quotation mark.
func quoted(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

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

// commands is a script of debugfs(8). Its commands name files in the current
// directory, as a whole path may be too long for a line of it.
type commands struct {
	strings.Builder
	dir string // where it is
}

// in goes to the directory of a path, and returns the quoted name of the path
// there.
func (b *commands) in(name string) string {
	dir, base := path.Split(name)
	if dir != b.dir {
		b.WriteString("cd /\n")
		for part := range strings.SplitSeq(strings.TrimSuffix(dir, "/"), "/") {
			if part != "" {
				fmt.Fprintf(b, "cd %s\n", quoted(part))
			}
		}
		b.dir = dir
	}
	return quoted(base)
}

// script is the list of debugfs(8) commands that apply the changes. Regular
// files are taken from links that it makes in the directory files, where
// debugfs is to run.
func script(list []change, files string) (string, error) {
	b := new(commands)
	for _, c := range slices.Backward(list) { // what is in a directory goes before it
		switch {
		case c.exists == nil || c.kept:
		case c.exists.IsDir():
			fmt.Fprintf(b, "rmdir %s\n", b.in(c.name))
		default:
			fmt.Fprintf(b, "rm %s\n", b.in(c.name))
		}
	}
	links := make(linked)
	for _, c := range list {
		if c.kept && c.fi.Mode().IsRegular() {
			links.first(c)
		}
	}
	for i, c := range list {
		if c.file == "" || links.another(b, c) {
			continue
		}
		name, link := b.in(c.name), fmt.Sprint(i)
		if !c.kept {
			if err := create(b, c, name, files, link); err != nil {
				return "", err
			}
		}
		attributes(b, c, name)
		if err := xattrCommands(b, c, name, files, link); err != nil {
			return "", err
		}
	}
	links.count(b)
	return b.String(), nil
}

// linked are the first names of files with several, and how many they have, by
// the files' inodes.
type linked map[fileID]*linkedFile

type linkedFile struct {
	name  string
	names int
}

// first notes the first name of a file.
func (l linked) first(c change) {
	if id, several := linksOf(c.fi); several && l[id] == nil {
		l[id] = &linkedFile{c.name, 1}
	}
}

// another makes a further name of a file that is there, if the change is one.
func (l linked) another(b *commands, c change) bool {
	id, several := linksOf(c.fi)
	if c.kept || !c.fi.Mode().IsRegular() || !several {
		return false
	}
	first := l[id]
	if first == nil {
		l.first(c)
		return false
	}
	name, to := b.in(c.name), quoted("/"+first.name)
	if len(name)+len(to) > maxCommand-8 {
		return false // it becomes a file of its own
	}
	// A new file makes room in the directory, which a link does not, and leaves it.
	fmt.Fprintf(b, "write /dev/null %s\nrm %s\nln %s %s\n", name, name, to, name)
	first.names++
	return true
}

// count says how many names the files have: debugfs does not count them.
func (l linked) count(b *commands) {
	for _, f := range slices.SortedFunc(maps.Values(l), func(x, y *linkedFile) int { return strings.Compare(x.name, y.name) }) {
		fmt.Fprintf(b, "sif %s links_count %d\n", b.in(f.name), f.names)
	}
}

// create makes what is not there.
func create(b *commands, c change, name, files, link string) error {
	switch c.fi.Mode().Type() {
	case fs.ModeDir:
		fmt.Fprintf(b, "mkdir %s\n", name)
	case fs.ModeSymlink:
		to, err := os.Readlink(c.file)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "symlink %s %s\n", name, quoted(to))
	default:
		if err := os.Symlink(c.file, filepath.Join(files, link)); err != nil {
			return err
		}
		fmt.Fprintf(b, "write %s %s\n", link, name)
	}
	return nil
}

func attributes(b *commands, c change, name string) {
	st := c.fi.Sys().(*syscall.Stat_t)
	if !c.kept || c.fi.Mode() != c.exists.Mode() {
		// chmod(2) changes an access list as well, which whoever changed the mode
		// did not see: it must not let anybody in whom the mode keeps out. Where
		// there is a list, the mode in the image is not quite the one in a layer,
		// see runner/layer.
		if c.kept {
			fmt.Fprintf(b, "ea_rm %s system.posix_acl_access\n", name)
		}
		fmt.Fprintf(b, "sif %s mode 0%o\n", name, st.Mode)
	}
	t := st.Mtim.Sec
	for _, f := range []struct{ field, value string }{
		{"uid", fmt.Sprint(st.Uid)}, {"gid", fmt.Sprint(st.Gid)},
		{"atime", fmt.Sprintf("@%d", t)}, {"mtime", fmt.Sprintf("@%d", t)}, {"ctime", fmt.Sprintf("@%d", t)}, {"crtime", fmt.Sprintf("@%d", t)},
	} {
		fmt.Fprintf(b, "sif %s %s %s\n", name, f.field, f.value)
	}
}

func xattrCommands(b *commands, c change, name, files, link string) error {
	if c.fi.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	kept, err := keptXattrs(c.file)
	if err != nil {
		return err
	}
	if c.kept {
		was, err := keptXattrs(c.was)
		if err != nil {
			return err
		}
		for _, attr := range slices.Sorted(maps.Keys(was)) {
			if _, ok := kept[attr]; !ok {
				fmt.Fprintf(b, "ea_rm %s %s\n", name, attr)
			}
		}
	}
	for i, attr := range slices.Sorted(maps.Keys(kept)) {
		file := fmt.Sprintf("%s.x%d", link, i)
		if err := os.WriteFile(filepath.Join(files, file), []byte(kept[attr]), 0o600); err != nil {
			return err
		}
		// Only ea_set(8) of debugfs would take a name for an option.
		fmt.Fprintf(b, "ea_set -f %s \"./%s %s\n", file, name[1:], attr)
	}
	return nil
}
