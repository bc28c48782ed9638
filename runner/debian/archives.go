// This file finds the archives to take packages from: those of the host's apt
// configuration, or the distribution's own.

package debian

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// The archives for a host whose configuration names none.
const (
	defaultArchive  = "http://ftp.debian.org/debian"
	defaultSecurity = "http://security.debian.org/debian-security"
)

// maxSources limits the size of a file of the host's apt configuration, bytes.
const maxSources = 1 << 20

// Ubuntu is built in the same way as Debian. Without a mirror, it comes from
// these archives.
const (
	Ubuntu         = "ubuntu"
	ubuntuArchive  = "http://archive.ubuntu.com/ubuntu"
	ubuntuSecurity = "http://security.ubuntu.com/ubuntu"
	ubuntuPorts    = "http://ports.ubuntu.com/ubuntu-ports"
)

// Archives returns the archives that have a suite for an architecture, by dpkg's
// name or QEMU's. For Debian these are the [HostArchives]. For Ubuntu they are
// Ubuntu's own, whatever the host uses. If mirror is not "", it is the only
// archive, and suite the only suite.
func Archives(distribution, root, suite, arch, mirror string) ([]Archive, error) {
	if distribution != Ubuntu {
		return HostArchives(root, suite, mirror)
	}
	if !validSuite(suite) {
		return nil, fmt.Errorf("%q is not the name of a suite", suite)
	}
	if mirror != "" {
		a := Archive{Name: Ubuntu, URL: strings.TrimRight(mirror, "/"), Suites: []string{suite}, Components: []string{"main"}}
		return []Archive{a}, a.check()
	}
	parts := []string{"main", "universe"}
	archive, security := ubuntuServers(arch)
	return []Archive{
		{Name: Ubuntu, URL: archive, Suites: []string{suite, suite + "-updates"}, Components: parts},
		{Name: "security", URL: security, Suites: []string{suite + "-security"}, Components: parts},
	}, nil
}

// ubuntuServers returns Ubuntu's servers for an architecture. All architectures
// but the PC's are on a server of their own, which also has their security
// updates.
func ubuntuServers(arch string) (archive, security string) {
	switch arch {
	case "amd64", "x86_64", "i386":
		return ubuntuArchive, ubuntuSecurity
	}
	return ubuntuPorts, ubuntuPorts
}

// SourcesList returns a sources.list(5) for a system of the suite and the
// architecture, by dpkg's name or QEMU's. It names mirror, or the default archives
// if mirror is "". It does not depend on this host.
func SourcesList(distribution, suite, arch, mirror string) (string, error) {
	none, err := os.MkdirTemp("", "meros-sources-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(none)
	archives, err := Archives(distribution, none, suite, arch, mirror)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, a := range archives {
		for _, s := range a.Suites {
			fmt.Fprintf(&b, "deb %s %s %s\n", a.URL, s, strings.Join(a.Components, " "))
		}
	}
	return b.String(), nil
}

// debianSuites lists Debian's suites. An entry of the host's configuration with
// one of these names is for Debian.
var debianSuites = []string{
	"buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid",
	"oldoldstable", "oldstable", "stable", "testing", "unstable",
}

var components = []string{"main", "contrib", "non-free", "non-free-firmware"}

// HostArchives returns the archives that have a suite of Debian. It reads the apt
// configuration of the host below root (normally "/"), in both formats of
// sources.list(5). If the host has another suite of Debian, HostArchives returns
// the same servers for this suite. If the host does not have Debian, as on Ubuntu,
// it returns Debian's own archives. If mirror is not "", it is the only archive,
// and suite the only suite.
func HostArchives(root, suite, mirror string) ([]Archive, error) {
	if !validSuite(suite) {
		return nil, fmt.Errorf("%q is not the name of a suite", suite)
	}
	if mirror != "" {
		a := Archive{Name: "debian", URL: strings.TrimRight(mirror, "/"), Suites: []string{suite}, Components: []string{"main"}}
		return []Archive{a}, a.check()
	}
	entries, err := readSources(root)
	if err != nil {
		return nil, err
	}
	var archives []Archive
	for _, want := range []Archive{
		{Name: "debian", Suites: mainSuites(suite)},
		{Name: "security", Suites: securitySuites(suite)},
	} {
		if a, ok := choose(entries, want); ok {
			archives = append(archives, a)
		}
	}
	if len(archives) > 0 && archives[0].Name == "debian" {
		return archives, nil
	}
	return otherSuite(entries, suite), nil
}

// otherSuite returns archives for suite on the servers from which the host has
// another suite of Debian.
func otherSuite(entries []Archive, suite string) []Archive {
	debian := Archive{Name: "debian", URL: defaultArchive, Suites: mainSuites(suite), Components: []string{"main"}}
	security := Archive{Name: "security", URL: defaultSecurity, Suites: securitySuites(suite), Components: []string{"main"}}
	for _, known := range debianSuites {
		if a, ok := choose(entries, Archive{Suites: []string{known}}); ok {
			debian.URL = a.URL
			if s, ok := choose(entries, Archive{Suites: securitySuites(known)}); ok {
				security.URL = s.URL
			}
			break
		}
	}
	if len(security.Suites) == 0 {
		return []Archive{debian}
	}
	return []Archive{debian, security}
}

// choose returns the entry for the first of want's suites, with the other suites
// that the same server has. There may be several such entries, because other
// vendors use Debian's names of suites. Then choose takes the one that looks most
// like Debian.
func choose(entries []Archive, want Archive) (Archive, bool) {
	best, score := -1, -1
	for i, e := range entries {
		if len(want.Suites) > 0 && slices.Contains(e.Suites, want.Suites[0]) && slices.Contains(e.Components, "main") {
			s := 0
			if e.Name == signedByDebian {
				s += 2
			}
			if base := path.Base(e.URL); strings.Contains(e.URL, "/archive/debian") || base == "debian" || base == "debian-security" {
				s++
			}
			if s > score {
				best, score = i, s
			}
		}
	}
	if best < 0 {
		return Archive{}, false
	}
	a := Archive{Name: want.Name, URL: entries[best].URL}
	for _, e := range entries {
		if e.URL == a.URL {
			a.Suites = append(a.Suites, e.Suites...)
			a.Components = append(a.Components, e.Components...)
		}
	}
	a.Suites = inOrder(want.Suites, a.Suites)
	a.Components = inOrder(components, a.Components)
	return a, true
}

// inOrder returns the elements of order that are also in have.
func inOrder(order, have []string) []string {
	var out []string
	for _, s := range order {
		if slices.Contains(have, s) {
			out = append(out, s)
		}
	}
	return out
}

func mainSuites(suite string) []string {
	if rolling(suite) {
		return []string{suite}
	}
	return []string{suite, suite + "-updates"}
}

func securitySuites(suite string) []string {
	switch {
	case rolling(suite):
		return nil
	case suite == "buster":
		return []string{suite + "/updates"} // bullseye changed the form of the name
	}
	return []string{suite + "-security"}
}

// rolling reports whether a suite gets its updates in place.
func rolling(suite string) bool {
	return suite == "sid" || suite == "unstable" || suite == "experimental"
}

func validSuite(s string) bool {
	return s != "" && len(s) <= 64 && alnum(s[0]) && !strings.Contains(s, "..") &&
		only(s, "abcdefghijklmnopqrstuvwxyz0123456789+-./_")
}

// check returns an error if the archive does not fit into a sources file, or if
// apt cannot read it without a further program.
func (a Archive) check() error {
	u, err := url.Parse(a.URL)
	if err != nil || strings.ContainsAny(a.URL, " \t\r\n[]\"'\\") {
		return fmt.Errorf("archive %q: not a URL", a.URL)
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return fmt.Errorf("archive %q: has no host", a.URL)
		}
	case "file", "copy":
	default:
		return fmt.Errorf("archive %q: only http, https, file and copy URLs are known", a.URL)
	}
	if len(a.Suites) == 0 || len(a.Components) == 0 {
		return fmt.Errorf("archive %s: names no suite or no component", a.URL)
	}
	for _, s := range slices.Concat(a.Suites, a.Components) {
		if !validSuite(s) {
			return fmt.Errorf("archive %s: %q is not the name of a suite or component", a.URL, s)
		}
	}
	return nil
}

// asAptSays returns the URL in the form in which apt prints it: without the empty
// host of a file.
func (a Archive) asAptSays() string {
	for _, scheme := range []string{"file:", "copy:"} {
		if rest, ok := strings.CutPrefix(a.URL, scheme+"//"); ok {
			return scheme + rest
		}
	}
	return a.URL
}

// signedByDebian is the Name of an entry that names Debian's keyring.
const signedByDebian = "signed by Debian"

// readSources returns the host's archives of binary packages, in the order in
// which apt reads them.
func readSources(root string) ([]Archive, error) {
	dir := filepath.Join(root, "etc/apt")
	parts, err := os.ReadDir(filepath.Join(dir, "sources.list.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the host's apt configuration: %w", err)
	}
	files := []string{filepath.Join(dir, "sources.list")}
	for _, p := range parts {
		if ext := filepath.Ext(p.Name()); ext == ".list" || ext == ".sources" {
			files = append(files, filepath.Join(dir, "sources.list.d", p.Name()))
		}
	}
	var all []Archive
	for _, f := range files {
		fi, err := os.Stat(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || !fi.Mode().IsRegular() || fi.Size() > maxSources {
			continue // apt does not read it either
		}
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read the host's apt configuration: %w", err)
		}
		var found []Archive
		if filepath.Ext(f) == ".sources" {
			found = parseDeb822Sources(data)
		} else {
			found = parseOneLineSources(data)
		}
		for _, a := range found {
			if a.URL = resolveMirrorList(root, a.URL); a.check() == nil {
				all = append(all, a)
			}
		}
	}
	return all, nil
}

// parseDeb822Sources skips damaged parts: apt itself reports them.
func parseDeb822Sources(data []byte) (all []Archive) {
	stanzas(bytes.NewReader(data), func(s stanza) error {
		enabled := strings.ToLower(s.get("Enabled"))
		if !slices.Contains(strings.Fields(s.get("Types")), "deb") || enabled == "no" || enabled == "false" {
			return nil
		}
		name, ok := signer(s.get("Signed-By"))
		if !ok {
			return nil
		}
		for _, u := range strings.Fields(s.get("URIs")) {
			all = append(all, Archive{Name: name, URL: strings.TrimRight(u, "/"),
				Suites: trimSuites(strings.Fields(s.get("Suites"))), Components: strings.Fields(s.get("Components"))})
		}
		return nil
	})
	return all
}

func parseOneLineSources(data []byte) (all []Archive) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxSources)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '\t' {
			continue
		}
		rest = strings.TrimSpace(rest)
		keyring := ""
		if strings.HasPrefix(rest, "[") {
			var options string
			if options, rest, ok = strings.Cut(rest[1:], "]"); !ok {
				continue
			}
			for _, o := range strings.Fields(options) {
				if v, ok := strings.CutPrefix(strings.ToLower(o), "signed-by="); ok {
					keyring = v
				}
			}
		}
		name, ok := signer(keyring)
		if f := strings.Fields(rest); ok && len(f) >= 3 {
			all = append(all, Archive{Name: name, URL: strings.TrimRight(f[0], "/"), Suites: trimSuites(f[1:2]), Components: f[2:]})
		}
	}
	return all
}

// signer reports whether an entry with this Signed-By can be Debian's.
func signer(keyring string) (name string, ok bool) {
	switch {
	case keyring == "" || strings.Contains(keyring, "BEGIN PGP"):
		return "", true
	case strings.Contains(path.Base(keyring), "debian-archive"):
		return signedByDebian, true
	}
	return "", false
}

func trimSuites(suites []string) []string {
	for i, s := range suites {
		suites[i] = strings.TrimRight(s, "/")
	}
	return suites
}

// resolveMirrorList returns the first server of a mirror list in a file,
// apt-transport-mirror(1). Debian's cloud images have such a list.
func resolveMirrorList(root, u string) string {
	name, ok := strings.CutPrefix(u, "mirror+file:")
	if !ok {
		return u
	}
	data, err := os.ReadFile(filepath.Join(root, path.Clean("/"+name)))
	if err != nil {
		return u
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(f[0], "#") {
			return strings.TrimRight(f[0], "/")
		}
	}
	return u
}

// SnapshotEnv is the environment variable that names a snapshot service, which
// still has the packages that a mirror dropped. Its value is a base URL, below
// which are ARCHIVE/TIMESTAMP/.
const SnapshotEnv = "MEROS_SNAPSHOT"
