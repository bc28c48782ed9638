package constellations

import (
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

// base reads what a machine is made of.
func (l *loader) base(n ast.Node) string {
	s := l.text(n)
	if problem, right := BaseProblem(s); problem != "" {
		l.addAt(placeOf(n), right, "%s", problem)
	}
	return s
}

// diskBase reads what a further disk is made of.
func (l *loader) diskBase(n ast.Node) string {
	s := l.text(n)
	switch problem, right := BaseProblem(s); {
	case OfRegistry(s) || strings.HasPrefix(s, "oci:"):
		l.addAt(placeOf(n), "https://host/image.qcow2", "a disk is made of the image of a disk, not of containers")
	case problem != "":
		l.addAt(placeOf(n), right, "%s", problem)
	}
	return s
}

// BaseProblem tells what is wrong with how a base is written, and how one that
// is right looks; both are "" if nothing is. Whether it is there is not asked.
func BaseProblem(s string) (problem, right string) {
	if ref, ok := RegistryReference(s); ok {
		if registryReference.MatchString(ref) {
			return "", ""
		}
		return "this is no reference to an image of a registry", "docker://debian:12 or docker://host/path/name:tag"
	}
	if path, ok := strings.CutPrefix(s, "oci:"); ok && (path == "" || path[0] == ':') {
		return "there is no path behind oci:", "oci:PATH or oci:PATH:TAG"
	}
	if strings.Contains(s, "://") && !strings.HasPrefix(s, "oci:") && !ImageURL(s) {
		return "this is no URL of an image: https, http or file, without a password and spaces", "https://host/image.qcow2"
	}
	return "", ""
}

// registryPrefix begins a base that is an image of containers in a registry.
const registryPrefix = "docker://"

// registryReference is what a registry may be asked for: host, path, tag and
// digest, as of the distribution specification of OCI.
var registryReference = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$`)

// RegistryReference is what a base asks a registry for, if it does.
func RegistryReference(base string) (ref string, ok bool) {
	return strings.CutPrefix(base, registryPrefix)
}

// OfRegistry tells whether a base is an image of a registry.
func OfRegistry(base string) bool {
	_, ok := RegistryReference(base)
	return ok
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
