// This file finds out how this host reaches the servers that stages fetch from: through
// which proxy, or at which addresses.

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"meros/graph"
	"meros/runner/fetch"
	"meros/stages"
	"meros/stages/pin"
)

// proxyEnv are the variables that a fetch also gets, for the servers that redirects lead to,
// see net/http.ProxyFromEnvironment.
var proxyEnv = []string{"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"}

// servers passes to fetches how this host reaches their servers.
type servers struct{ pin.Servers }

// env implements the Env of [graph.Sandboxed] for fetches.
func (s *servers) env(ctx context.Context, j *graph.Job) []string {
	all := make(map[string]fetch.Reach)
	for _, text := range urlsOf(j.Node) {
		if u, err := url.Parse(text); err == nil && u.Hostname() != "" {
			all[fetch.ServerOf(u)] = s.To(ctx, u)
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

// urlsOf returns the addresses that a node fetches from.
func urlsOf(n *graph.Node) (urls []string) {
	for _, h := range n.Hints {
		if h.Name == stages.HintURLs {
			json.Unmarshal([]byte(h.Value), &urls) // the fetch reports a damaged hint
		}
	}
	return urls
}

// repositoryOf returns the git repository that a node fetches from by HTTP, or nil.
func repositoryOf(n *graph.Node) *url.URL {
	if n.Stage != "kernel-source" {
		return nil
	}
	for _, h := range n.Hints {
		if u, err := url.Parse(h.Value); h.Name == stages.HintURL && err == nil && (u.Scheme == "http" || u.Scheme == "https") {
			return u
		}
	}
	return nil
}

// gitReach returns how git reaches a repository: through the proxy of git-config(1), or
// through that of the environment, which for git includes curl(1)'s ALL_PROXY.
func gitReach(ctx context.Context, u *url.URL) fetch.Reach {
	out, err := exec.CommandContext(ctx, "git", "config", "--get-urlmatch", "http.proxy", u.String()).Output()
	if err == nil { // an empty setting means no proxy
		return fetch.Reach{Proxy: strings.TrimSpace(string(out))}
	}
	if e, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && e != nil {
		return fetch.Reach{Proxy: e.String()}
	}
	return fetch.Reach{Proxy: cmp.Or(os.Getenv("ALL_PROXY"), os.Getenv("all_proxy"))} // git applies no_proxy itself
}
