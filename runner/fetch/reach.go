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

// Reach is how a server is reached, found out once for many downloads, each
// of which is a process of its own.
type Reach struct {
	Proxy     string   `json:"proxy,omitempty"`     // URL; "" is none
	Addresses []string `json:"addresses,omitempty"` // of the server, tried in this order; none: look it up
}

// ServerOf is what tells the servers of two URLs apart.
func ServerOf(u *url.URL) string { return u.Scheme + "://" + u.Host }

// ServersEnv tells a fetch how servers are reached: a JSON object of
// [Reach] by [ServerOf]. It may hold a proxy's password, so it is
// in no file.
const ServersEnv = "MEROS_SERVERS"

// Reached are the servers that this process was told of.
func Reached() (servers map[string]Reach, err error) {
	if v := os.Getenv(ServersEnv); v != "" {
		err = json.Unmarshal([]byte(v), &servers)
	}
	return servers, err
}

// client is an HTTP client that reaches servers as they say, and others, which
// it is redirected to, as the environment does.
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

// addresses are those of servers by the host in their URLs.
func addresses(servers map[string]Reach) map[string][]string {
	all := make(map[string][]string)
	for server, reach := range servers {
		if u, err := url.Parse(server); err == nil && len(reach.Addresses) > 0 {
			all[u.Hostname()] = reach.Addresses
		}
	}
	return all
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// dialAny tries the addresses that are known of a host.
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
