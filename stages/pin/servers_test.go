// This file tests how servers are reached.

package pin

import (
	"net/url"
	"sync"
	"testing"

	"meros/runner/fetch"
)

// apt's proxy serves only the files that apt would fetch, even if other files
// are on the same server.
func TestServersOfApt(t *testing.T) {
	const proxy = "http://apt.example:3142"
	s := &Servers{known: make(map[string]*sync.Once), reach: make(map[string]fetch.Reach), proxy: func(*url.URL) string { return proxy }}
	for u, want := range map[string]string{
		"http://localhost/debian/pool/x.deb":     proxy,
		"http://localhost/debian/images/x.qcow2": "",
	} {
		at, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.To(t.Context(), at).Proxy; got != want {
			t.Errorf("%s: %q, want %q", u, got, want)
		}
	}
}
