// This file tests how the probe recognizes the start of a connection.

package network

import (
	"net/netip"
	"testing"
)

// Only a SYN counts as the start of a connection. The end of an earlier
// connection, which TCP repeats if nothing answers, does not.
func TestBegins(t *testing.T) {
	to := netip.MustParseAddrPort("192.0.2.1:443")
	packet := func(flags byte) []byte {
		b := make([]byte, 40)
		b[0], b[9] = 0x45, 6
		copy(b[16:], []byte{192, 0, 2, 1})
		b[22], b[23], b[33] = 443>>8, 443&0xff, flags
		return b
	}
	const fin, syn, rst, ack, ece, cwr = 1, 2, 4, 16, 64, 128
	for flags, want := range map[byte]bool{syn: true, syn | ece | cwr: true, syn | ack: false, ack: false, fin | ack: false, rst: false, rst | ack: false} {
		if begins(packet(flags), to) != want {
			t.Errorf("flags %#x: %v", flags, !want)
		}
	}
	for name, change := range map[string]func(b []byte) []byte{
		"another address": func(b []byte) []byte { b[19]++; return b }, "another port": func(b []byte) []byte { b[23]++; return b }, "UDP": func(b []byte) []byte { b[9] = 17; return b },
		"IPv6": func(b []byte) []byte { b[0] = 0x65; return b }, "truncated": func(b []byte) []byte { return b[:33] }, "truncated header": func(b []byte) []byte { return b[:19] },
		"a long header": func(b []byte) []byte { b[0] = 0x4f; return b }, "an empty packet": func([]byte) []byte { return nil },
	} {
		if begins(change(packet(syn)), to) {
			t.Errorf("%s counts as the start of a connection", name)
		}
	}
}
