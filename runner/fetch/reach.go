package fetch

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
)

// Reach is how a server is reached, found out once for many downloads, each
// of which is a process of its own.
type Reach struct {
	Proxy     string   `json:"proxy,omitempty"`     // URL; "" is none
	Addresses []string `json:"addresses,omitempty"` // of the server, tried in this order; none: look it up
}

// client is an HTTP client that reaches servers as they say.
func client(servers map[string]Reach) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		if p := servers[r.URL.Hostname()].Proxy; p != "" {
			return url.Parse(p)
		}
		return nil, nil
	}
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil || len(servers[host].Addresses) == 0 {
			return dial(ctx, network, address)
		}
		var errs []error
		for _, a := range servers[host].Addresses {
			conn, err := dial(ctx, network, net.JoinHostPort(a, port))
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}
	return &http.Client{Transport: t}
}
