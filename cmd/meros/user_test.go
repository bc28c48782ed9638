// This file checks that root and ordinary users build the same artifacts.

package main

import (
	"encoding/json"
	"maps"
	"os"
	"strings"
	"testing"

	"meros/bench/lab"
)

// artifacts returns the digests of all outputs in a build's events, by key, node
// and name.
func artifacts(t *testing.T, o *lab.Outcome) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for line := range strings.Lines(o.Stderr) {
		var e struct {
			Key, Node string
			Outputs   map[string]struct{ Digest string }
		}
		if json.Unmarshal([]byte(line), &e) != nil {
			continue
		}
		for name, out := range e.Outputs {
			all[e.Key+" "+e.Node+" "+name] = out.Digest
		}
	}
	return all
}

// TestRootAndUserBuildTheSame builds one lock as root and as an ordinary user with
// umask 077, in empty data directories. All artifacts must be equal, and the
// user's machine must boot.
func TestRootAndUserBuildTheSame(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-x86_64", "ssh")
	files := map[string]string{
		"manifest.yml":                                bootableManifest + "  n: {suite: bookworm, bootstrap: debootstrap}\n",
		"common/includes.chroot/etc/motd":             "hello\n",
		"common/includes.chroot/srv/app/run.sh":       "#!/bin/sh\n",
		"m/includes.chroot/srv/app/owners":            "not the owners file\n",
		"m/owners":                                    "/srv/app/run.sh www-data:www-data 4750\n",
		"common/hooks/0100-user.chroot":               "#!/bin/sh\nset -e\nuseradd -m -u 1234 worker\nsu worker -c 'echo mine > ~/file; ln ~/file ~/again'\nmkfifo /srv/fifo\nsetcap cap_net_raw+ep /bin/true || true\n",
		"m/hooks/0200-packages.chroot":                "#!/bin/sh\nset -e\ndpkg --purge --force-depends nano || true\nchown 1:2 /srv/app\nchmod 2755 /srv/app\n",
		"n/includes.chroot/usr/local/share/a b/ü.txt": "x",
	}
	root := lab.Downloaded(t, "same")
	user := lab.Downloaded(t, "same")
	for name, text := range files {
		root.Write(t, "constellations/same/"+name, text)
		user.Write(t, "constellations/same/"+name, text)
	}
	asUser := func(args ...string) *lab.Outcome {
		t.Helper()
		o := lab.Finish(t, user.AsUser(t, lab.UserOptions{Umask: "077"}, user.Command(t, args...)))
		if o.Exit != 0 {
			t.Fatalf("as a user: meros %q: exit status %d\n%s", args, o.Exit, o.Stderr)
		}
		return o
	}
	a := artifacts(t, root.Must(t, "build", "same", "--locked"))
	b := artifacts(t, asUser("build", "same", "--locked"))
	if len(a) < 20 {
		t.Fatalf("the build made only %d artifacts", len(a))
	}
	if !maps.Equal(a, b) {
		for name, sum := range a {
			if b[name] != sum {
				t.Errorf("%s: root built %s, the user %s", name, sum, b[name])
			}
		}
	}
	leftovers(t, user)
	for p, want := range map[*lab.Project]os.FileMode{root: 0o644, user: 0o600} {
		if fi, err := os.Stat(p.Path("data/disks/same-m.qcow2")); err != nil || fi.Mode() != want {
			t.Errorf("the disk has mode %v, want %v; error %v", fi.Mode(), want, err)
		}
	}

	asUser("init", "same", "m")
	o := asUser("connect", "same", "m", "--", "cat /home/worker/again; stat -c '%u:%g %a' /srv/app")
	if o.Stdout != "mine\n1:2 2755\n" {
		t.Errorf("the user's machine printed %q", o.Stdout)
	}
	asUser("shutdown", "same")
	settled(t, user.Root) // the shared ssh connection ends shortly after the machine
}
