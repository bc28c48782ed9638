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
