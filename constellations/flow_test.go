// This file tests the values of egress, ingress and ports.

package constellations

import "testing"

func TestFlows(t *testing.T) {
	for s, want := range map[string]string{
		"10.1.2.3/16": "10.1.0.0/16", "192.0.2.7:5432": "192.0.2.7:5432/tcp", ":443": ":443/tcp", "10.0.0.0/8:53/udp": "10.0.0.0/8:53/udp",
		"192.0.2.7": "192.0.2.7", "/udp": "/udp",
	} {
		if f, err := ParseFlow(s); err != nil || f.String() != want {
			t.Errorf("%q is %q, want %q; %v", s, f, want, err)
		}
	}
	for _, s := range []string{"", "10.1.2.3/33", ":0", ":70000", ":+1", ":1x", ":01", "fe80::1", "example.org", "10.0.0.0/8/icmp", "::1/128"} {
		if f, err := ParseFlow(s); err == nil {
			t.Errorf("%q was accepted as %v", s, f)
		}
	}
}

func TestForwards(t *testing.T) {
	for s, want := range map[string]string{
		"127.0.0.1:8080->80": "127.0.0.1:8080->80", "8080->80": "127.0.0.1:8080->80", "80": "127.0.0.1:80->80",
		"[::1]:8080->80": "[::1]:8080->80", "0.0.0.0:53": "0.0.0.0:53->53",
	} {
		if f, err := ParseForward(s); err != nil || f.String() != want {
			t.Errorf("%q is %q, want %q; %v", s, f, want, err)
		}
	}
	for _, s := range []string{"", "->80", "80->", "0->1", "1->0", "localhost:80", "127.0.0.1:0->1", "1->2->3", "127.0.0.1->80", "99999"} {
		if f, err := ParseForward(s); err == nil {
			t.Errorf("%q was accepted as %v", s, f)
		}
	}
}

func FuzzParseFlow(f *testing.F) {
	f.Add("10.0.0.0/8:53/udp")
	f.Add("127.0.0.1:8080->80")
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParseFlow(s); err == nil {
			if b, err := ParseFlow(a.String()); err != nil || a != b {
				t.Errorf("%q is %v, and that is %v, %v", s, a, b, err)
			}
		}
		if a, err := ParseForward(s); err == nil {
			if b, err := ParseForward(a.String()); err != nil || a != b {
				t.Errorf("%q is %v, and that is %v, %v", s, a, b, err)
			}
		}
	})
}
