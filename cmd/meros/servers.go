package main

import (
	"cmp"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"

	"meros/graph"
	"meros/runner/debian"
	"meros/runner/fetch"
)

// proxyEnv are what a fetch is told besides, for the servers that it is
// redirected to, net/http.ProxyFromEnvironment.
var proxyEnv = []string{"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"}

// servers finds out once for a build how each server is reached. Hundreds of
// downloads that ask for one name at the same time are more than some
// resolvers answer, and a question that is dropped costs five seconds.
type servers struct {
	mu    sync.Mutex
	proxy func(*url.URL) string // of apt's configuration
	known map[string]*sync.Once
	reach map[string]fetch.Reach
}

// env is the [graph.Sandboxed] Env of fetches.
func (s *servers) env(ctx context.Context, j *graph.Job) []string {
	all := make(map[string]fetch.Reach)
	for _, text := range urlsOf(j.Node) {
		if u, err := url.Parse(text); err == nil && u.Hostname() != "" {
			all[fetch.ServerOf(u)] = s.to(ctx, u)
		}
	}
	if u := repositoryOf(j.Node); u != nil {
		all[fetch.ServerOf(u)] = gitReach(ctx, u)
	}
	b, err := json.Marshal(all)
	if err != nil || len(all) == 0 {
		return nil
	}
	env := []string{fetch.ServersEnv + "=" + string(b)}
	for _, name := range proxyEnv {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// urlsOf are the places that a node fetches from.
func urlsOf(n *graph.Node) (urls []string) {
	for _, h := range n.Hints {
		if h.Name == "urls" {
			json.Unmarshal([]byte(h.Value), &urls) // what is damaged the fetch finds
		}
	}
	return urls
}

// repositoryOf is the repository of git that a node fetches from by http, or nil.
func repositoryOf(n *graph.Node) *url.URL {
	if n.Stage != "kernel-source" {
		return nil
	}
	for _, h := range n.Hints {
		if u, err := url.Parse(h.Value); h.Name == "url" && err == nil && (u.Scheme == "http" || u.Scheme == "https") {
			return u
		}
	}
	return nil
}

// gitReach is how git reaches a repository: the proxy that the user's git has
// for it, git-config(1), or that of the environment, curl(1)'s for all protocols
// among them.
func gitReach(ctx context.Context, u *url.URL) fetch.Reach {
	out, err := exec.CommandContext(ctx, "git", "config", "--get-urlmatch", "http.proxy", u.String()).Output()
	if err == nil { // also with an empty one, which is none
		return fetch.Reach{Proxy: strings.TrimSpace(string(out))}
	}
	if e, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && e != nil {
		return fetch.Reach{Proxy: e.String()}
	}
	return fetch.Reach{Proxy: cmp.Or(os.Getenv("ALL_PROXY"), os.Getenv("all_proxy"))} // no_proxy git applies itself
}

// to is how u's server is reached. Those who ask while it is found out wait.
func (s *servers) to(ctx context.Context, u *url.URL) fetch.Reach {
	key := fetch.ServerOf(u)
	if debian.OfArchive(u) {
		key += " apt" // it may be reached in another way than the rest of the server
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

// find asks the environment and the resolver, and before them apt's
// configuration if the file is one that apt would fetch. What cannot be found
// out is left to the download, which says what is wrong.
func (s *servers) find(ctx context.Context, u *url.URL) fetch.Reach {
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
