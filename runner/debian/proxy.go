// This file reads the proxies in the host's apt configuration.

package debian

import (
	"context"
	"net/url"
	"regexp"
	"strings"
)

// DirectProxy is apt's name for no proxy, apt-transport-http(1).
const DirectProxy = "DIRECT"

var proxyOption = regexp.MustCompile(`^Acquire::(https?)::Proxy(?:::([^" ]+))? "([^"]*)";$`)

var archiveFile = regexp.MustCompile(`\.u?deb$|/dists/.+/(InRelease|Release|Release\.gpg|Packages)(\.[a-z0-9]+)?$`)

// OfArchive reports whether a URL is of a package or an index of Debian or Ubuntu,
// by the name of the file. The host's apt configuration applies only to these.
func OfArchive(u *url.URL) bool { return archiveFile.MatchString(u.Path) }

// HostProxy returns a function that finds the proxy through which the host's apt
// would reach a URL. Its result is [DirectProxy], a URL, or "" if apt's
// configuration names none.
func HostProxy(ctx context.Context) func(*url.URL) string {
	transport, err := hostTransport(ctx)
	if err != nil {
		return func(*url.URL) string { return "" } // the download fails, and reports why
	}
	return parseProxies(transport)
}

func parseProxies(transport string) func(*url.URL) string {
	set := make(map[string]string) // "SCHEME" and "SCHEME HOST"
	for line := range strings.Lines(transport) {
		if m := proxyOption.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			set[strings.TrimSpace(m[1]+" "+m[2])] = m[3]
		}
	}
	return func(u *url.URL) string {
		// Without a setting for https, that of http counts.
		for _, key := range []string{u.Scheme + " " + u.Hostname(), u.Scheme, "http"} {
			if p := set[key]; p != "" {
				return p
			}
		}
		return ""
	}
}
