// Package alpine knows how Alpine Linux publishes its releases and packages. It
// installs them by Alpine's own apk. It treats all input as hostile until it has
// verified a signature.
//
// It does not download anything, and does not know how a sandbox works: callers
// give it files and a function that runs a program.
package alpine

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// DefaultMirror is Alpine's own mirror.
const DefaultMirror = "https://dl-cdn.alpinelinux.org/alpine"

// Mirror returns the base URL of a mirror without a slash at the end. "" stands
// for [DefaultMirror].
func Mirror(mirror string) string {
	if mirror == "" {
		return DefaultMirror
	}
	return strings.TrimRight(mirror, "/")
}

// KernelPackage is Alpine's kernel for virtual machines.
const KernelPackage = "linux-virt"

// LatestStable names the newest release of a mirror.
const LatestStable = "latest-stable"

// ReleaseKey is a keyring for gpgv(1). It has the key that signs Alpine's releases:
// 0482D84022F52DF1C4E7CD43293ACD0907D9495A, Natanael Copa, see
// https://alpinelinux.org/downloads.
//
//go:embed keys/release.gpg
var ReleaseKey []byte

// Repositories lists the repositories of packages, in the order in which apk asks
// them.
var Repositories = []string{"main", "community"}

// ReleasesFile returns the path of the file that describes a release, relative to
// the mirror's base URL.
func ReleasesFile(release, arch string) string {
	return path.Join(release, "releases", arch, "latest-releases.yaml")
}

// IndexFile returns the path of a repository's index, relative to the mirror's base
// URL.
func IndexFile(branch, repository, arch string) string {
	return path.Join(branch, repository, arch, "APKINDEX.tar.gz")
}

// RootFS describes a mini root file system.
type RootFS struct {
	Branch  string // such as v3.20
	Version string // such as 3.20.3
	File    string // relative to the mirror's base URL
	Size    int64  // bytes
	SHA256  string // hexadecimal
	Date    time.Time
}

// Serves reports whether the root file system may stand for the release that a
// manifest names.
func (r *RootFS) Serves(release string) bool {
	return r.Branch == release || release == LatestStable && strings.HasPrefix(r.Branch, "v")
}

// Matches reports whether a root file system with this version may be of the
// branch. That of edge may have any version.
func (r *RootFS) Matches(version string) bool {
	numbers, ok := strings.CutPrefix(r.Branch, "v")
	return !ok || strings.HasPrefix(version, numbers+".")
}

// VersionOf returns the version in the etc/alpine-release of a tree. The tree
// may be hostile.
func VersionOf(tree string) (string, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return "", err
	}
	defer root.Close()
	b, err := root.ReadFile("etc/alpine-release")
	return strings.TrimSpace(string(b)), err
}

var branchLink = regexp.MustCompile(`href="(edge|latest-stable|v[0-9]+\.[0-9]+)/?"`)

// Branches returns the releases in a mirror's own list of its directories, a
// page of HTML.
func Branches(page []byte) (names []string) {
	for _, m := range branchLink.FindAllSubmatch(page, -1) {
		names = append(names, string(m[1]))
	}
	return names
}

var (
	branchName  = regexp.MustCompile(`^(edge|v[0-9]+\.[0-9]+)$`)
	versionName = regexp.MustCompile(`^[0-9][0-9a-z._]*$`)
	fileName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*\.tar\.gz$`)
	hexDigest   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// ParseReleases finds the mini root file system in a latest-releases.yaml.
func ParseReleases(text []byte, arch string) (*RootFS, error) {
	var all []struct {
		Branch, Arch, Version, Flavor, File, Date, Time, SHA256 string
		Size                                                    int64
	}
	if err := yaml.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("latest-releases.yaml: %w", err)
	}
	for _, r := range all {
		if r.Flavor != "alpine-minirootfs" || r.Arch != arch {
			continue
		}
		when, err := time.Parse("2006-01-02 15:04:05", strings.TrimSpace(r.Date+" "+r.Time))
		if err != nil || !branchName.MatchString(r.Branch) || !versionName.MatchString(r.Version) || !fileName.MatchString(r.File) || !hexDigest.MatchString(r.SHA256) || r.Size <= 0 {
			return nil, errors.Join(errors.New("latest-releases.yaml: the entry of alpine-minirootfs is damaged"), err)
		}
		return &RootFS{r.Branch, r.Version, path.Join(r.Branch, "releases", arch, r.File), r.Size, r.SHA256, when.UTC()}, nil
	}
	return nil, fmt.Errorf("latest-releases.yaml has no alpine-minirootfs for %s", arch)
}
