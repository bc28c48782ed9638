// This file connects to servers through the proxies and addresses that the caller found
// out. It does not find them out itself.

package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
)

// Reach says how to reach a server. One lookup serves many downloads, each of which is a
// separate process.
type Reach struct {
	Proxy     string   `json:"proxy,omitempty"`     // URL, or "" for a direct connection
	Addresses []string `json:"addresses,omitempty"` // of the server, in the order to try; if empty, the name is resolved
}

// ServerOf returns the server of a URL: scheme, host and port.
func ServerOf(u *url.URL) string { return u.Scheme + "://" + u.Host }

// ServersEnv is the environment variable with the servers of a download: a JSON object
// of [Reach] by [ServerOf]. The value may contain the password of a proxy, so it is
// never written to a file.
const ServersEnv = "MEROS_SERVERS"

// Reached returns the servers in this process' environment.
func Reached() (servers map[string]Reach, err error) {
	if v := os.Getenv(ServersEnv); v != "" {
		err = json.Unmarshal([]byte(v), &servers)
	}
	return servers, err
}

// client returns an HTTP client that reaches the servers as given. It reaches others,
// such as targets of redirects, as the environment says.
func client(servers map[string]Reach) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		switch reach, known := servers[ServerOf(r.URL)]; {
		case !known:
			return http.ProxyFromEnvironment(r)
		case reach.Proxy != "":
			return url.Parse(reach.Proxy)
		}
		return nil, nil
	}
	t.DialContext = dialAny(addresses(servers), t.DialContext)
	return &http.Client{Transport: t}
}

// addresses returns the addresses of the servers by host name.
func addresses(servers map[string]Reach) map[string][]string {
	all := make(map[string][]string)
	for server, reach := range servers {
		if u, err := url.Parse(server); err == nil && len(reach.Addresses) > 0 {
			all[u.Hostname()] = reach.Addresses
		}
	}
	return all
}

// dialer connects to an address, as [net.Dialer.DialContext] does.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// dialAny returns a dialer that tries the known addresses of a host.
func dialAny(known map[string][]string, dial dialer) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil || len(known[host]) == 0 {
			return dial(ctx, network, address)
		}
		var errs []error
		for _, a := range known[host] {
			conn, err := dial(ctx, network, net.JoinHostPort(a, port))
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}
}
