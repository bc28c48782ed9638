// These tests check labels and the differences between builds.

package record

import (
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"meros/cache"
	"meros/graph"
)

func TestLabelOf(t *testing.T) {
	for node, want := range map[string]graph.Label{
		"fetch nginx_1.22.1-9+deb12u1_amd64.deb":       {Name: "nginx", Version: "1.22.1-9+deb12u1"},
		"fetch libstdc++6_12.2.0-14_amd64.deb":         {Name: "libstdc++6", Version: "12.2.0-14"},
		"fetch dbus_1%3a1.14.10-1~deb12u1_all.deb":     {Name: "dbus", Version: "1:1.14.10-1~deb12u1"},
		"fetch ca-certificates-bundle-20240226-r0.apk": {Name: "ca-certificates-bundle", Version: "20240226-r0"},
		"fetch py3-0-1.2_git2023-r1.apk":               {Name: "py3-0", Version: "1.2_git2023-r1"},
		"fetch linux-6.1.tar.xz":                       {Name: "fetch linux-6.1.tar.xz"},
		"fetch alpine-minirootfs-3.20.0-x86_64.tar.gz": {Name: "fetch alpine-minirootfs-3.20.0-x86_64.tar.gz"},
		"fetch debian:12 layer 1":                      {Name: "fetch debian:12 layer 1"},
		"bookworm x86_64 bootstrap":                    {Name: "bookworm x86_64 bootstrap"},
		"shop/nginx_1.22.1-9_amd64.deb hooks":          {Name: "shop/nginx_1.22.1-9_amd64.deb hooks"},
	} {
		if got := labelOf(node); got != want {
			t.Errorf("%s is %q, want %q", node, got, want)
		}
	}
}

// Between two builds packages differ by their versions, and what would be built
// differs so from what was.
func TestWhyPackages(t *testing.T) {
	sum := func(c string) digest.Digest { return digest.NewDigestFromEncoded(digest.SHA256, strings.Repeat(c, 64)) }
	text := func(sums ...string) string {
		all := "stage packages\n"
		for _, c := range sums {
			all += "input deb " + sum(c).String() + "\n"
		}
		return all
	}
	build := func(minute int, packages map[string]string, sums ...string) *Build {
		b := &Build{Head: Head{Name: "shop", Began: time.Unix(int64(minute)*60, 0).UTC(), Ran: 1}}
		s := Node{Name: "shop packages", Stage: "packages", Key: strings.Join(sums, ""), KeyText: text(sums...)}
		for i, c := range sums {
			s.Inputs = append(s.Inputs, i)
			b.Stages = append(b.Stages, Node{Name: "fetch " + packages[c], Stage: "fetch", Outputs: map[string]cache.Artifact{"file": {Digest: sum(c)}}})
		}
		b.Stages = append(b.Stages, s)
		return b
	}
	packages := map[string]string{"a": "nginx_1.1_amd64.deb", "b": "nginx_1.2_amd64.deb", "c": "adduser_3_all.deb", "d": "bash_5_amd64.deb"}
	from, to := build(1, packages, "a", "c"), build(2, packages, "b", "d")
	var said []string
	for _, x := range Between(nil, from, to, "") {
		for _, d := range x.Differences {
			said = append(said, d.String())
		}
	}
	const want = "nginx: 1.1 -> 1.2; bash: new (5); adduser: gone (3)"
	if got := strings.Join(said, "; "); got != want {
		t.Errorf("%s, want %s", got, want)
	}

	rs := Store{t.TempDir()}
	for _, b := range []*Build{from, to} {
		if err := rs.Save(rs.Dir, b, func(*Build) {}); err != nil {
			t.Fatal(err)
		}
	}
	labels := rs.Packages("shop")
	for c, want := range map[string]graph.Label{"a": {Name: "nginx", Version: "1.1"}, "b": {Name: "nginx", Version: "1.2"}, "c": {Name: "adduser", Version: "3"}} {
		if got := labels[sum(c).String()]; got != want {
			t.Errorf("%s is %q, want %q", c, got, want)
		}
	}
	if none := rs.Packages("nothing"); len(none) > 0 {
		t.Errorf("of no build there is %q", none)
	}
}
