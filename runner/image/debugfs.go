// This file writes the debugfs(8) commands that apply changes to a file system,
// and runs them.

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

// lineEnds are the characters that end a line of a script.
const lineEnds = "\r\n"

// unnameable returns the reason why no command can name a path, or "".
func unnameable(name string) string {
	for part := range strings.SplitSeq(name, "/") {
		if strings.ContainsAny(part, lineEnds) {
			return "has a line break in its name"
		}
		if strings.HasPrefix(part, "<") && strings.HasSuffix(part, ">") {
			return "has a name that debugfs reads as an inode number"
		}
		if len(quoted(part)) > maxCommand-32 {
			return "has a name that is too long"
		}
	}
	return ""
}

// quoted quotes an argument of a command. The only escape that libss knows is the
// doubled quotation mark.
func quoted(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// commands is a script of debugfs(8). Its commands name files relative to the
// current directory, because a whole path may be too long for a line.
type commands struct {
	strings.Builder
	dir string // the current directory
}

// in changes to the directory of a path and returns the quoted base name.
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

// script returns the debugfs(8) commands that apply the changes. debugfs has to run
// in the directory files: script puts symbolic links to the regular files there.
func script(list []change, files string) (string, error) {
	b := new(commands)
	for _, c := range slices.Backward(list) { // the content of a directory before the directory
		switch {
		case c.exists == nil || c.reused:
		case c.exists.IsDir():
			fmt.Fprintf(b, "rmdir %s\n", b.in(c.name))
		default:
			fmt.Fprintf(b, "rm %s\n", b.in(c.name))
		}
	}
	links := make(linked)
	for _, c := range list {
		if c.reused && c.fi.Mode().IsRegular() {
			links.first(c)
		}
	}
	for i, c := range list {
		if c.file == "" || links.another(b, c) {
			continue
		}
		name, link := b.in(c.name), fmt.Sprint(i)
		if !c.reused {
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

// linked holds the files with several names (hard links).
type linked map[fileID]*linkedFile

type linkedFile struct {
	name  string // the first one
	names int    // how many so far
}

// first records the first name of a file.
func (l linked) first(c change) {
	if id, several := linksOf(c.fi); several && l[id] == nil {
		l[id] = &linkedFile{c.name, 1}
	}
}

// another links a further name to a file that exists by then, and reports whether
// the change was such a name.
func (l linked) another(b *commands, c change) bool {
	id, several := linksOf(c.fi)
	if c.reused || !c.fi.Mode().IsRegular() || !several {
		return false
	}
	first := l[id]
	if first == nil {
		l.first(c)
		return false
	}
	name, to := b.in(c.name), quoted("/"+first.name)
	if len(name)+len(to) > maxCommand-8 {
		return false // it becomes a separate file
	}
	// ln does not extend a full directory. Writing a file does, and removing the
	// file leaves the space.
	fmt.Fprintf(b, "write /dev/null %s\nrm %s\nln %s %s\n", name, name, to, name)
	first.names++
	return true
}

// count sets the link counts of the files, which debugfs does not update.
func (l linked) count(b *commands) {
	for _, f := range slices.SortedFunc(maps.Values(l), func(x, y *linkedFile) int { return strings.Compare(x.name, y.name) }) {
		fmt.Fprintf(b, "sif %s links_count %d\n", b.in(f.name), f.names)
	}
}

// create creates a file, link or directory that the base does not have.
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

// attributes sets the mode, the owner and the times.
func attributes(b *commands, c change, name string) {
	st := c.fi.Sys().(*syscall.Stat_t)
	if !c.reused || c.fi.Mode() != c.exists.Mode() {
		// chmod(2) would change the access list too, but the layer has no access
		// lists. An old list must not admit a user whom the new mode excludes.
		// For a file with a list, the mode in the image differs from the mode in
		// the layer, see runner/layer.
		if c.reused {
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

// xattrCommands sets the extended attributes and removes the ones that are gone.
// It writes their values to files beside the link.
func xattrCommands(b *commands, c change, name, files, link string) error {
	if c.fi.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	now, err := preservedXattrs(c.file)
	if err != nil {
		return err
	}
	if c.reused {
		was, err := preservedXattrs(c.was)
		if err != nil {
			return err
		}
		for _, attr := range slices.Sorted(maps.Keys(was)) {
			if _, ok := now[attr]; !ok {
				fmt.Fprintf(b, "ea_rm %s %s\n", name, attr)
			}
		}
	}
	for i, attr := range slices.Sorted(maps.Keys(now)) {
		file := fmt.Sprintf("%s.x%d", link, i)
		if err := os.WriteFile(filepath.Join(files, file), []byte(now[attr]), 0o600); err != nil {
			return err
		}
		// ./ protects a name that begins with a dash: of these commands, only
		// ea_set reads options.
		fmt.Fprintf(b, "ea_set -f %s \"./%s %s\n", file, name[1:], attr)
	}
	return nil
}

// debugfs runs the commands in dir on the partition of a raw image. debugfs(8)
// always exits with 0, so every message on stderr counts as an error.
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
			return ErrNoSpace // packing again makes a larger image, or reports the missing size
		default:
			return fmt.Errorf("debugfs: %s", line)
		}
	}
	// debugfs leaks the block of a removed file's attributes, and does not update
	// the quotas that a foreign file system may have.
	if o.Patch {
		return repair(ctx, fmt.Sprintf("%s?offset=%d", raw, o.offset()), o)
	}
	return nil
}
