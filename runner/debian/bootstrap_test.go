// This file tests whole base systems, with packages of the real archives.

package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"meros/bench/lab"
	"meros/runner/guest"
)

// bootstrapWith makes a base system of the suite in a fresh directory.
func bootstrapWith(t *testing.T, engine func(context.Context, BootstrapOptions) error, r resolved, suite string) string {
	t.Helper()
	tree := t.TempDir()
	if err := os.Chmod(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	err := engine(t.Context(), BootstrapOptions{
		Tree: tree, Debs: debPaths(t, r.Base), Arch: "amd64", Suite: suite, Epoch: r.Date, Log: &log, Run: chrootRun(tree, &log),
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	if err := errors.Join(Clean(tree, r.Date), guest.Settle(tree)); err != nil {
		t.Fatal(err)
	}
	return tree
}

// listing returns what tests compare: type, permissions, owner, and content or
// link target of every file that a package has, and of dpkg's own records.
func listing(t *testing.T, tree string) map[string]string {
	t.Helper()
	packaged := make(map[string]bool)
	lists, _ := filepath.Glob(filepath.Join(tree, "var/lib/dpkg/info/*.list"))
	for _, l := range lists {
		data, err := os.ReadFile(l)
		if err != nil {
			t.Fatal(err)
		}
		for name := range strings.Lines(string(data)) {
			// A file may have a second name, through a link into /usr.
			name = strings.TrimSpace(name)
			packaged[name], packaged["/usr"+name] = true, true
		}
	}
	out := make(map[string]string)
	err := filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(p, tree)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if !packaged[name] && !strings.HasPrefix(name, "/var/lib/dpkg/info/") && !strings.HasPrefix(name, "/etc/alternatives/") && name != "/var/lib/dpkg/status" {
			return nil
		}
		st := fi.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%v %d:%d", fi.Mode(), st.Uid, st.Gid)
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(data))
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		out[name] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func compareListings(t *testing.T, name string, got, want map[string]string) {
	t.Helper()
	var diffs []string
	for p, w := range want {
		if g := got[p]; g != w {
			diffs = append(diffs, fmt.Sprintf("%s:\n  got  %s\n  want %s", p, g, w))
		}
	}
	for p, g := range got {
		if _, ok := want[p]; !ok {
			diffs = append(diffs, fmt.Sprintf("%s: unexpected: %s", p, g))
		}
	}
	slices.Sort(diffs)
	for i, d := range diffs {
		if i == 20 {
			t.Errorf("... and %d more", len(diffs)-i)
			break
		}
		t.Errorf("%s: %s", name, d)
	}
}

// mmdebstrap makes the reference system, of the same files.
func mmdebstrap(t *testing.T, r resolved, suite string) string {
	t.Helper()
	lab.Need(t, "mmdebstrap")
	dir := lab.InMemory(t) // dpkg waits for the disk
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	archive, tree := filepath.Join(dir, "archive"), filepath.Join(dir, "tree")
	names, err := LocalArchive(t.Context(), archive, suite, "amd64", debPaths(t, r.Base), r.Date)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "mmdebstrap", "--mode=root", "--variant=essential", "--format=directory", "--include="+strings.Join(names, ","),
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--skip=check/qemu", suite, tree, "deb [trusted=yes] copy://"+archive+" "+suite+" main")
	cmd.Env = append(os.Environ(), epochEnv(r.Date))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	if err := errors.Join(Clean(tree, r.Date), guest.Settle(tree)); err != nil {
		t.Fatal(err)
	}
	return tree
}

// Bootstrap and mmdebstrap make the same files, owners, permissions and dpkg
// status of the same packages.
func TestBootstrapIsMmdebstrap(t *testing.T) {
	lab.Long(t)
	lab.NeedRoot(t)
	const suite = "bookworm"
	r := resolve(t, suite)
	got := listing(t, bootstrapWith(t, Bootstrap, r, suite))
	if len(got) < 5000 {
		t.Fatalf("only %d files are packaged", len(got))
	}
	want := listing(t, mmdebstrap(t, r, suite))
	// mmdebstrap runs apt with the tree as its target, and apt closes these.
	for _, d := range []string{"/var/cache/apt/archives/partial", "/var/lib/apt/lists/partial"} {
		delete(got, d)
		delete(want, d)
	}
	compareListings(t, suite, got, want)
}

// With both engines, all packages are configured, and no packaged file differs.
func TestEngines(t *testing.T) {
	lab.Long(t)
	lab.NeedRoot(t)
	lab.Need(t, "debootstrap")
	for _, suite := range []string{"bookworm", "trixie"} {
		r := resolve(t, suite)
		for name, engine := range map[string]func(context.Context, BootstrapOptions) error{"meros": Bootstrap, "debootstrap": Debootstrap} {
			t.Run(suite+"/"+name, func(t *testing.T) {
				if suite == "trixie" && name == "debootstrap" {
					return // the host's debootstrap serves one suite
				}
				if name == "debootstrap" {
					lab.Nightly(t) // it takes twice as long as meros, and TestRootAndUserBuildTheSame uses it too
				}
				tree := bootstrapWith(t, engine, r, suite)
				var out bytes.Buffer
				err := chrootRun(tree, &out)(t.Context(), []string{"dpkg", "--verify"}, scriptEnv(), nil)
				if err != nil || out.Len() > 0 {
					t.Errorf("dpkg --verify: %v\n%s", err, out.String())
				}
				out.Reset()
				err = chrootRun(tree, &out)(t.Context(), []string{"dpkg-query", "-W", "-f", "${db:Status-Abbrev}\n"}, scriptEnv(), nil)
				if err != nil || strings.Count(out.String(), "ii ") != len(r.Base) {
					t.Errorf("dpkg-query: %v, %d packages installed of %d", err, strings.Count(out.String(), "ii "), len(r.Base))
				}
				installExtra(t, tree, r)
			})
		}
	}
}

func installExtra(t *testing.T, tree string, r resolved) {
	t.Helper()
	var out bytes.Buffer
	policy := filepath.Join(tree, "usr/sbin/policy-rc.d")
	if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := Install(t.Context(), InstallOptions{Root: tree, Debs: debPaths(t, r.Extra), Names: extraNames, Epoch: r.Date, Log: &out, Run: chrootRun(tree, &out)})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if err := errors.Join(Clean(tree, r.Date), guest.Settle(tree)); err != nil {
		t.Fatal(err)
	}
	if keys, _ := filepath.Glob(filepath.Join(tree, "etc/ssh/ssh_host_*")); len(keys) > 0 {
		t.Errorf("the tree still has host keys: %v", keys)
	}
	out.Reset()
	if err := chrootRun(tree, &out)(t.Context(), []string{"apt-mark", "showmanual"}, scriptEnv(), nil); err != nil {
		t.Fatal(err)
	}
	manual := strings.Fields(out.String())
	for _, n := range extraNames {
		if !slices.Contains(manual, n) {
			t.Errorf("%s is not marked as installed on request", n)
		}
	}
	if slices.Contains(manual, "libssl3") || slices.Contains(manual, "openssh-client") {
		t.Errorf("a dependency is marked as installed on request: %v", manual)
	}
}

func TestExtractKernel(t *testing.T) {
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			r := resolve(t, suite)
			dest, work := t.TempDir(), t.TempDir()
			modules := []string{"virtio_pci", "virtio_blk", "virtio-net", "ext4", "no_such_module"}
			missing, err := ExtractKernel(t.Context(), debPaths(t, r.Kernel)[0], modules, dest, work)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(missing, []string{"no_such_module"}) {
				t.Errorf("missing: %q", missing)
			}
			order, err := os.ReadFile(filepath.Join(dest, "modules", "order"))
			if err != nil {
				t.Fatal(err)
			}
			names := strings.Fields(string(order))
			before := func(a, b string) bool { i := slices.Index(names, a); return i >= 0 && i < slices.Index(names, b) }
			if !before("net_failover.ko", "virtio_net.ko") || !before("failover.ko", "net_failover.ko") {
				t.Errorf("order: %q", names)
			}
			for _, n := range names {
				if b, err := os.ReadFile(filepath.Join(dest, "modules", n)); err != nil || !bytes.HasPrefix(b, []byte("\x7fELF")) {
					t.Errorf("%s is not a plain module: %v", n, err)
				}
			}
			release, _ := os.ReadFile(filepath.Join(dest, "release"))
			if !strings.Contains(string(release), "cloud-amd64") {
				t.Errorf("release: %q", release)
			}
		})
	}
}
