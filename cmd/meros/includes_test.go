// This file tests files that a build copies from includes.chroot into an image.

package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"meros/bench/lab"
)

// TestIncludes checks that files of includes.chroot arrive unchanged, with any
// name, mode, owner and type.
func TestIncludes(t *testing.T) {
	p := shared(t, "includes", map[string]string{
		"m/includes.chroot/etc/motd": "hello\n",
		"m/owners":                   "/srv/data  www-data:www-data\n/srv/shadowed root:shadow 0640\n",
	})
	dir := p.Path("constellations/includes/m/includes.chroot")
	file := func(name, text string, mode os.FileMode) {
		t.Helper()
		f := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(f, mode); err != nil {
			t.Fatal(err)
		}
	}
	file("srv/with space", "space", 0o644)
	file("srv/new\nline", "newline", 0o644)
	file("srv/latin1-\xe9", "latin1", 0o644)
	file(`srv/quote"'$(x)`, "quote", 0o644)
	file("srv/empty", "", 0o644)
	file("srv/suid", "suid", 0o755|os.ModeSetuid)
	file("srv/data", "data", 0o640)
	file("srv/shadowed", "shadowed", 0o600)
	file("lib/udev/rules.d/z.rules", "through the link /lib", 0o644)
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("/etc/shadow", "srv/absolute")
	link("../../../../../../../../etc/passwd", "srv/outside")
	link("nowhere", "srv/dangling")
	if err := os.Link(filepath.Join(dir, "srv/with space"), filepath.Join(dir, "srv/hard")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "srv/fifo"), 0o640); err != nil {
		t.Fatal(err)
	}
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_bind_service=ep
	if err := unix.Setxattr(filepath.Join(dir, "srv/empty"), "security.capability", capability, 0); err != nil {
		t.Fatal(err)
	}
	p.Must(t, "build", "includes", "--rootfs-only")
	image := openImage(t, p, "includes-m")
	for name, want := range map[string]string{
		"/srv/with space": "space", "/srv/empty": "", "/srv/hard": "space", "/etc/motd": "hello\n", "/usr/lib/udev/rules.d/z.rules": "through the link /lib",
	} {
		if got := image.read(t, name); got != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
	for name, words := range map[string][]string{
		"/srv/suid":       {"Mode:  04755", "User:     0", "Group:     0"},
		"/srv/data":       {"Mode:  0640", "User:    33", "Group:    33"},
		"/srv/shadowed":   {"Mode:  0640", "User:     0", "Group:    42"},
		"/srv/fifo":       {"FIFO", "Mode:  0640"},
		"/srv/absolute":   {"symlink", `"/etc/shadow"`},
		"/srv/outside":    {"symlink", `etc/passwd"`},
		"/srv/dangling":   {"symlink", `"nowhere"`},
		"/srv/with space": {"Links: 2"},
		"/srv/empty":      {"security.capability"},
	} {
		st := image.stat(t, name)
		for _, w := range words {
			if !strings.Contains(st, w) {
				t.Errorf("%s: there is no %q in\n%s", name, w, st)
			}
		}
	}
	listing := image.debugfs(t, "ls -p /srv")
	for _, name := range []string{"latin1-\xe9", `quote"'$(x)`, "new\nline"} {
		if !strings.Contains(listing, "/"+name+"/") {
			t.Errorf("%q is not in the image:\n%q", name, listing)
		}
	}
	// A second build runs nothing. After one edited file only the last stages run.
	if ran := p.Must(t, "build", "includes", "--rootfs-only").Ran(); len(ran) > 0 {
		t.Errorf("the second build ran %q", ran)
	}
	file("srv/with space", "other", 0o644)
	if ran := p.Must(t, "build", "includes", "--rootfs-only").Ran(); strings.Join(ran, ", ") != "includes/m overlay, includes/m image, includes/m disk" {
		t.Errorf("after one edited file it ran %q", ran)
	}
	// The time of a file does not matter.
	if out, err := exec.Command("touch", filepath.Join(dir, "etc/motd")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if ran := p.Must(t, "build", "includes", "--rootfs-only").Ran(); len(ran) > 0 {
		t.Errorf("after a touch it ran %q", ran)
	}
}

// TestIncludedSocket checks that a build rejects a socket.
func TestIncludedSocket(t *testing.T) {
	p := shared(t, "socket", map[string]string{"m/includes.chroot/etc/motd": "hello\n"})
	l, err := net.Listen("unix", p.Path("constellations/socket/m/includes.chroot/etc/sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fails(t, p.Run(t, "build", "socket", "--rootfs-only"), 1, "etc/sock", "a socket cannot be copied into an image")
}

// TestIncludedSparseFile checks that the holes of a sparse file take no disk space
// in the cache and in the image.
func TestIncludedSparseFile(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	p := lab.Built(t, "sparse")
	p.Write(t, "constellations/sparse/manifest.yml", plain)
	p.Write(t, "constellations/sparse/m/includes.chroot/etc/motd", "hello\n")
	p.Must(t, "build", "sparse", "--rootfs-only") // so that the cache only grows by the file
	const size = 5 << 30
	f, err := os.Create(p.Path("constellations/sparse/m/includes.chroot/etc/sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("end"), size-3); err != nil {
		t.Fatal(err)
	}
	before := lab.Allocated(t, p.Path("data/cache"))
	p.Must(t, "build", "sparse", "--rootfs-only")
	if st := openImage(t, p, "sparse-m").stat(t, "/etc/sparse"); !strings.Contains(st, "Size: 5368709120") {
		t.Errorf("the file is\n%s", st)
	}
	if grown := lab.Allocated(t, p.Path("data/cache")) - before; grown > 200<<20 {
		t.Errorf("the cache grew by %d bytes", grown)
	}
	if n := lab.Allocated(t, p.Path("data/disks/sparse-m.qcow2")); n > 400<<20 {
		t.Errorf("the image takes %d bytes", n)
	}
}
