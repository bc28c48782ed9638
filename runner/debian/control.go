// This file parses control files and other text in the format deb822(5).

package debian

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// maxLine and maxStanza limit the size of a line and of a paragraph, bytes.
	// The longest line in Debian's indexes is a Depends of 20 KB.
	maxLine   = 1 << 20
	maxStanza = 4 << 20
)

// field is a name and a value. Further lines of the value retain their first
// blank.
type field struct{ name, value string }

// stanza is a paragraph, with its fields in the original order.
type stanza []field

// get returns the value of a field, or "" if there is no such field.
func (s stanza) get(name string) string {
	for _, f := range s {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// stanzas parses text strictly and calls f for each paragraph. As in
// sources.list(5), lines that begin with # are comments.
func stanzas(r io.Reader, f func(stanza) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	var current stanza
	size, n := 0, 0
	flush := func() error {
		if len(current) == 0 {
			return nil
		}
		s := current
		current, size = nil, 0
		return f(s)
	}
	for lines.Scan() {
		n++
		line := strings.TrimSuffix(lines.Text(), "\r")
		if size += len(line) + 1; size > maxStanza {
			return fmt.Errorf("line %d: the paragraph is larger than %d bytes", n, maxStanza)
		}
		if strings.IndexByte(line, 0) >= 0 {
			return fmt.Errorf("line %d: contains a zero byte", n)
		}
		var err error
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.Trim(line, " \t") == "":
			err = flush()
		case line[0] == ' ' || line[0] == '\t':
			if len(current) == 0 {
				return fmt.Errorf("line %d: continuation without a field", n)
			}
			current[len(current)-1].value += "\n" + line
		default:
			current, err = current.add(line)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return fmt.Errorf("line %d: longer than %d bytes", n+1, maxLine)
		}
		return err
	}
	return flush()
}

func (s stanza) add(line string) (stanza, error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !validFieldName(name) {
		if len(line) > 60 {
			line = line[:60]
		}
		return nil, fmt.Errorf("%q is not a field", line)
	}
	for _, f := range s {
		if strings.EqualFold(f.name, name) {
			return nil, fmt.Errorf("field %s appears twice", name)
		}
	}
	return append(s, field{name, strings.Trim(value, " \t")}), nil
}

func validFieldName(s string) bool {
	if s == "" || s[0] == '-' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// parseControl reads a control file. It must have exactly one paragraph with a
// valid name, version and architecture.
func parseControl(r io.Reader) (stanza, error) {
	var all []stanza
	err := stanzas(r, func(s stanza) error {
		if all = append(all, s); len(all) > 1 {
			return errors.New("has a second paragraph")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	if len(all) == 0 {
		return nil, errors.New("control: is empty")
	}
	s := all[0]
	if name := s.get("Package"); !validPackageName(name) {
		return nil, fmt.Errorf("control: bad package name %q", name)
	}
	if v := s.get("Version"); !validVersion(v) {
		return nil, fmt.Errorf("control: bad version %q", v)
	}
	if a := s.get("Architecture"); !validArch(a) {
		return nil, fmt.Errorf("control: bad architecture %q", a)
	}
	return s, nil
}

// validPackageName reports whether s is a name by Debian Policy 5.6.1.
func validPackageName(s string) bool {
	return len(s) >= 2 && len(s) <= 128 && alnum(s[0]) && only(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.")
}

// validVersion reports whether s is a version by Debian Policy 5.6.12.
func validVersion(s string) bool {
	return s != "" && len(s) <= 256 && alnum(s[0]) &&
		only(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-:~")
}

func validArch(s string) bool {
	return s != "" && len(s) <= 64 && alnum(s[0]) && only(s, "abcdefghijklmnopqrstuvwxyz0123456789-")
}

func alnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z'
}

func only(s, set string) bool {
	return strings.Trim(s, set) == "" && strings.IndexFunc(s, func(r rune) bool { return !strings.ContainsRune(set, r) }) < 0
}
