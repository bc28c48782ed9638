package image

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// maxCommand bounds a command, bytes: debugfs reads its commands in lines of 256.
const maxCommand = 240

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

// debugfs runs the commands in dir on the partition of a raw image. debugfs(8) exits
// with 0 whatever happens, so that anything it complains of is an error.
func debugfs(ctx context.Context, raw, cmds, dir string, o Options) error {
	cmd := exec.CommandContext(ctx, "debugfs", "-w", "-f", cmds, fmt.Sprintf("%s?offset=%d", raw, o.offset()))
	cmd.Env, cmd.Dir = clockEnv(o.Epoch), dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("debugfs: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	for line := range strings.SplitSeq(strings.TrimSpace(stderr.String()), "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "debugfs 1."):
		case strings.Contains(line, "Could not allocate"):
			return ErrNoSpace // a new image is made large enough, or says what is missing
		default:
			return fmt.Errorf("debugfs: %s", line)
		}
	}
	// It forgets the block of a file's many attributes when it removes the file, and
	// does not keep the quotas that somebody else's file system may have.
	if o.Patch {
		return repair(ctx, fmt.Sprintf("%s?offset=%d", raw, o.offset()), o)
	}
	return nil
}
