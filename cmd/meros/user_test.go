package main

import (
	"encoding/json"
	"maps"
	"os"
	"strings"
	"testing"

	"meros/bench/lab"
)

// artifacts are the digests of all outputs that a build spoke of, by node and
// name.
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

// One lock, two empty data directories, root and an ordinary user who keeps
// files from others: every artifact is the same. And the user's machine boots.
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
		t.Fatalf("only %d artifacts were made", len(a))
	}
	if !maps.Equal(a, b) {
		for name, sum := range a {
			if b[name] != sum {
				t.Errorf("%s: %s by root, %s by a user", name, sum, b[name])
			}
		}
	}
	leftovers(t, user)
	for p, want := range map[*lab.Project]os.FileMode{root: 0o644, user: 0o600} {
		if fi, err := os.Stat(p.Path("data/disks/same-m.qcow2")); err != nil || fi.Mode() != want {
			t.Errorf("a disk of mode %v, want %v; %v", fi.Mode(), want, err)
		}
	}

	asUser("init", "same", "m")
	o := asUser("connect", "same", "m", "--", "cat /home/worker/again; stat -c '%u:%g %a' /srv/app")
	if o.Stdout != "mine\n1:2 2755\n" {
		t.Errorf("the user's machine says %q", o.Stdout)
	}
	asUser("shutdown", "same")
	settled(t, user.Root) // the connection that ssh keeps ends a moment after the machine
}
