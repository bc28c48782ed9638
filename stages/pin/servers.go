// This file finds out how this host reaches a server: through which proxy, or at
// which addresses.

package pin

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"

	"meros/runner/debian"
	"meros/runner/fetch"
)

// Servers finds out once how each server is reached. Hundreds of downloads that
// look up one name at the same time overload some resolvers, and a dropped
// question costs five seconds. The zero value is ready to use, by several
// goroutines at the same time.
type Servers struct {
	mu    sync.Mutex
	proxy func(*url.URL) string // from apt's configuration
	known map[string]*sync.Once
	reach map[string]fetch.Reach
}

// To returns how the server of u is reached. Callers that ask for the same
// server wait until the first of them has the answer.
func (s *Servers) To(ctx context.Context, u *url.URL) fetch.Reach {
	key := fetch.ServerOf(u)
	if debian.OfArchive(u) {
		key += " apt" // apt's proxy may differ from that of the server's other files
	}
	s.mu.Lock()
	if s.known == nil {
		s.known, s.reach, s.proxy = make(map[string]*sync.Once), make(map[string]fetch.Reach), debian.HostProxy(ctx)
	}
	once := s.known[key]
	if once == nil {
		once = new(sync.Once)
		s.known[key] = once
	}
	s.mu.Unlock()
	once.Do(func() {
		r := s.find(ctx, u)
		s.mu.Lock()
		s.reach[key] = r
		s.mu.Unlock()
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reach[key]
}

// find asks apt's configuration if apt would fetch such a file, then the
// environment, then the resolver. If all of them fail, the download fails and
// reports why.
func (s *Servers) find(ctx context.Context, u *url.URL) fetch.Reach {
	apt := ""
	if debian.OfArchive(u) {
		apt = s.proxy(u)
	}
	switch apt {
	case debian.DirectProxy:
	case "":
		if e, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && e != nil {
			return fetch.Reach{Proxy: e.String()}
		}
	default:
		return fetch.Reach{Proxy: apt}
	}
	addresses, _ := net.DefaultResolver.LookupHost(ctx, u.Hostname())
	return fetch.Reach{Addresses: addresses}
}

// Open returns the content of a URL whose digest nobody knows yet.
func (s *Servers) Open(ctx context.Context, from string) (io.ReadCloser, error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, err
	}
	return fetch.Open(ctx, from, map[string]fetch.Reach{fetch.ServerOf(u): s.To(ctx, u)})
}
