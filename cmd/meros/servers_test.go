// This file tests downloads that a server redirects.

package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"meros/bench/lab"
)

// TestRedirectedProxy checks that lock and build use the proxy of the environment
// for the target of a redirect.
func TestRedirectedProxy(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-img")
	const content = "no archive"
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "far.invalid" {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(content))
	}))
	t.Cleanup(proxy.Close)
	near := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://far.invalid"+r.URL.Path, http.StatusFound)
	}))
	t.Cleanup(near.Close)
	p := lab.New(t, map[string]string{
		"constellations/far/manifest.yml":  "virtual_machines:\n  m: {suite: bookworm, mirror: '" + near.URL + "'}\n",
		"constellations/far/meros.lock":    pinnedLock(near.URL, content),
		"constellations/used/manifest.yml": "virtual_machines:\n  m: {mirror: '" + near.URL + "', base: '" + near.URL + "/x.qcow2'}\n",
	})
	run := func(args ...string) *lab.Outcome {
		cmd := p.Command(t, args...)
		cmd.Env = append(os.Environ(), "http_proxy="+proxy.URL)
		return lab.Finish(t, cmd)
	}
	fails(t, run("build", "far", "--rootfs-only"), 1, "is not an ar archive")
	o := run("lock", "used") // the mirror has no packages for it
	if kept := p.Path(fmt.Sprintf("data/cache/partial/%x", sha256.Sum256([]byte(content)))); readFile(t, kept) != content {
		t.Errorf("lock did not download the image: exit status %d\n%s", o.Exit, o.Stderr)
	}
}
