// This file reads the owners file, which assigns owners and modes to paths.

package layer

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"meros/runner/hint"
)

// Owner is the owner of an entry, and its mode.
type Owner struct {
	UID, GID int
	Mode     int64 // -1 leaves the file's own mode
}

// Owners maps absolute paths to their owners. A path that ends in / also covers
// everything below it; the longest match wins.
type Owners map[string]Owner

// ParseOwners reads an owners file: lines "PATH UID:GID [MODE]", with the mode in octal.
// A line that begins with # is a comment. A path with white space is quoted as in Go.
// lookup returns the ids of user and group names; kind is "user" or "group".
func ParseOwners(r io.Reader, lookup func(kind, name string) (int, error)) (Owners, error) {
	owners := make(Owners)
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := owners.parse(line, lookup); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return owners, s.Err()
}

func (o Owners) parse(line string, lookup func(kind, name string) (int, error)) error {
	p, rest := line, ""
	if line[0] == '"' {
		q, err := strconv.QuotedPrefix(line)
		if err != nil {
			return fmt.Errorf("%s: missing closing quote", line)
		}
		rest = line[len(q):]
		if p, err = strconv.Unquote(q); err != nil {
			return err
		}
	} else if i := strings.IndexAny(line, " \t"); i > 0 {
		p, rest = line[:i], line[i:]
	}
	f := strings.Fields(rest)
	if p == "" || p[0] != '/' || len(f) < 1 || len(f) > 2 {
		return fmt.Errorf("%q is not of the form /PATH UID:GID [MODE]", line)
	}
	uname, gname, ok := strings.Cut(f[0], ":")
	if !ok {
		gname = uname
	}
	owner := Owner{Mode: -1}
	var err error
	if owner.UID, err = resolveID("user", uname, lookup); err != nil {
		return err
	}
	if owner.GID, err = resolveID("group", gname, lookup); err != nil {
		return err
	}
	if len(f) == 2 {
		if owner.Mode, err = strconv.ParseInt(f[1], 8, 32); err != nil || owner.Mode < 0 || owner.Mode > 0o7777 {
			return hint.Add(fmt.Errorf("%q is not a mode", f[1]), "write the mode in octal, such as 0640")
		}
	}
	o[p] = owner
	return nil
}

func resolveID(kind, name string, lookup func(kind, name string) (int, error)) (int, error) {
	if id, err := strconv.ParseUint(name, 10, 16); err == nil {
		return int(id), nil
	}
	if name == "root" {
		return 0, nil
	}
	if lookup == nil {
		return 0, fmt.Errorf("%s %q is not a number", kind, name)
	}
	return lookup(kind, name)
}

// of returns the owner of a path, and whether an entry covers the path. Other paths
// belong to root.
func (o Owners) of(name string) (Owner, bool) {
	p := "/" + name
	if owner, ok := o[p]; ok {
		return owner, true
	}
	for d := p; ; d = path.Dir(d) {
		if owner, ok := o[strings.TrimSuffix(d, "/")+"/"]; ok {
			if d != p {
				owner.Mode = -1 // the mode applies only to the directory itself
			}
			return owner, true
		}
		if d == "/" {
			return Owner{Mode: -1}, false
		}
	}
}
