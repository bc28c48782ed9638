package constellations

import (
	"net/url"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

// base reads what a machine is made of.
func (l *loader) base(n ast.Node) string {
	s := l.text(n)
	if strings.Contains(s, "://") && !strings.HasPrefix(s, "oci:") && !ImageURL(s) {
		l.addAt(placeOf(n), "https://host/image.qcow2", "this is no URL of an image: https, http or file, without a password and spaces")
	}
	return s
}

// ImageURL tells whether s is the URL of an image that can be pinned.
func ImageURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) || u.User != nil || u.Fragment != "" {
		return false
	}
	switch u.Scheme {
	case "http", "https":
		return u.Host != "" && u.Path != "" && !strings.HasSuffix(u.Path, "/")
	case "file":
		return u.Host == "" && strings.HasPrefix(u.Path, "/") && !strings.Contains(s, "%")
	}
	return false
}
