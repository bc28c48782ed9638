// This file tests how apt's proxies are read.

package debian

import (
	"net/url"
	"testing"
)

func TestParseProxies(t *testing.T) {
	proxy := parseProxies(`Acquire::Retries "3";
Acquire::http::Proxy "http://proxy.example:3142/";
Acquire::http::Proxy::near.example "DIRECT";
Acquire::https::Proxy::far.example "socks5h://far:1080";
Acquire::http::Timeout "9";
`)
	for u, want := range map[string]string{
		"http://deb.example/debian":  "http://proxy.example:3142/",
		"http://near.example/debian": DirectProxy,
		"https://deb.example/debian": "http://proxy.example:3142/",
		"https://far.example/debian": "socks5h://far:1080",
	} {
		at, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		if got := proxy(at); got != want {
			t.Errorf("%s: %q, want %q", u, got, want)
		}
	}
	if got := parseProxies("")(&url.URL{Scheme: "http", Host: "x"}); got != "" {
		t.Errorf("without a setting: %q", got)
	}
}

func TestOfArchive(t *testing.T) {
	for u, want := range map[string]bool{
		"http://a.example/debian/pool/main/b/base-files_1_amd64.deb":           true,
		"http://a.example/debian/dists/bookworm/InRelease":                     true,
		"http://a.example/debian/dists/bookworm/main/binary-amd64/Packages.xz": true,
		"https://cloud.example/images/bookworm/debian-12-generic.qcow2":        false,
		"https://cdn.example/pub/linux/kernel/v6.x/linux-6.12.tar.xz":          false,
		"https://a.example/alpine/v3.20/main/x86_64/hello-1.2-r3.apk":          false,
	} {
		at, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		if got := OfArchive(at); got != want {
			t.Errorf("%s: %v", u, got)
		}
	}
}
