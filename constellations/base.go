// This file checks how a manifest names an existing image. It does not check whether
// the image exists.

package constellations

import (
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

// base reads the existing image that a machine is made of.
func (l *loader) base(n ast.Node) string {
	s := l.text(n)
	if problem, example := BaseProblem(s); problem != "" {
		l.addAt(placeOf(n), "write it as "+example, "%s", problem)
	}
	return s
}

// diskBase reads the existing image that a further disk is made of.
func (l *loader) diskBase(n ast.Node) string {
	s := l.text(n)
	switch problem, example := BaseProblem(s); {
	case OfRegistry(s) || strings.HasPrefix(s, "oci:"):
		l.addAt(placeOf(n), "write the path or URL of an image, such as https://host/image.qcow2", "a disk needs a disk image, not a container image")
	case problem != "":
		l.addAt(placeOf(n), "write it as "+example, "%s", problem)
	}
	return s
}

// BaseProblem returns the mistake in how a base is written, and a correct
// example. Both are "" if there is no mistake. It does not check whether the
// image exists.
func BaseProblem(s string) (problem, example string) {
	if ref, ok := RegistryReference(s); ok {
		if registryReference.MatchString(ref) {
			return "", ""
		}
		return "not a valid reference to an image in a registry", "docker://debian:12 or docker://host/path/name:tag"
	}
	if path, ok := strings.CutPrefix(s, "oci:"); ok && (path == "" || path[0] == ':') {
		return "there is no path after oci:", "oci:PATH or oci:PATH:TAG"
	}
	if strings.Contains(s, "://") && !strings.HasPrefix(s, "oci:") && !ImageURL(s) {
		return "not a valid URL of an image: https, http or file, without password and spaces", "https://host/image.qcow2"
	}
	return "", ""
}

// registryPrefix begins a base that is a container image in a registry.
const registryPrefix = "docker://"

// registryReference matches a reference to an image: host, path, tag and digest,
// as in OCI's distribution specification.
var registryReference = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$`)

// RegistryReference returns the reference of a base that is in a registry. ok
// reports whether it is.
func RegistryReference(base string) (ref string, ok bool) {
	return strings.CutPrefix(base, registryPrefix)
}

// OfRegistry reports whether a base is an image in a registry.
func OfRegistry(base string) bool {
	_, ok := RegistryReference(base)
	return ok
}

// ImageURL reports whether s is the URL of an image that can be pinned.
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
