// This file makes a package of openrc for a mirror of Alpine, from Debian's
// packages.

package lab

import (
	"debug/elf"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// openrcs is the project whose openrc [AlpineMirror.AddOpenRC] uses. It has the
// newest Debian release with openrc.
var openrcs = seed{"meros-seed-openrc", `virtual_machines:
  rc: {suite: trixie, packages: [openrc]}
`, []string{"build", "seed", "--rootfs-only"}}

// openrcDebs lists the Debian packages with openrc's programs and the libraries
// that these need.
var openrcDebs = []string{
	"openrc", "libeinfo1", "librc1t64", "libc6", "libcap2", "libpam0g", "libselinux1", "libpcre2-8-0", "libaudit1", "libcap-ng0",
}

// AddOpenRC adds a package openrc that stands in for Alpine's. It has Debian's
// programs with the C library that they need, and the service scripts of the
// directory services.
func (m *AlpineMirror) AddOpenRC(t testing.TB, services string) {
	t.Helper()
	Need(t, "dpkg-deb")
	tree := openrcTree(t)
	files := make(map[string]string)
	for _, program := range []string{"openrc", "openrc-run", "openrc-shutdown", "rc-service", "rc-update", "supervise-daemon"} {
		files["sbin/"+program] = filepath.Join(tree, "usr/sbin", program)
	}
	files["bin/rc-status"] = filepath.Join(tree, "usr/bin/rc-status")
	files["etc/rc.conf"] = filepath.Join(tree, "etc/rc.conf")
	addTree(t, files, filepath.Join(tree, "usr/lib/rc"), "usr/lib/rc")
	addTree(t, files, services, "etc/init.d")
	delete(files, "etc/init.d/README")
	for _, source := range slices.Collect(maps.Values(files)) {
		addLibraries(t, files, tree, source)
	}
	// Debian's openrc reads /etc/insserv.conf. Alpine's does not need it.
	m.Add(t, APK{Name: "openrc", Version: "0.54-r2", Depends: "/bin/sh", Sources: files, Files: map[string]string{"etc/insserv.conf": ""}})
}

// openrcTree unpacks the packages of openrcDebs and returns the directory.
func openrcTree(t testing.TB) string {
	t.Helper()
	p, tree := openrcs.project(t), t.TempDir()
	lock, err := os.ReadFile(p.Path("constellations/seed/meros.lock"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(lock)) {
		f := strings.Fields(line) // package NAME VERSION ARCH ARCHIVE FILE SIZE DIGEST
		if len(f) != 8 || f[0] != "package" || !slices.Contains(openrcDebs, f[1]) {
			continue
		}
		if out, err := exec.Command("dpkg-deb", "-x", p.Path(filepath.Join("data/cache/cas", f[7][:2], f[7])), tree).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", f[1], err, out)
		}
	}
	return tree
}

// addTree adds the files below dir to files, at paths below name.
func addTree(t testing.TB, files map[string]string, dir, name string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files[path.Join(name, strings.TrimPrefix(file, dir))] = file
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// addLibraries adds the libraries that a program is linked with, and its loader
// at the path that the program names. It takes them from a Debian tree.
func addLibraries(t testing.TB, files map[string]string, tree, program string) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		return // a script
	}
	defer f.Close()
	for _, s := range f.Progs {
		if s.Type != elf.PT_INTERP {
			continue
		}
		b := make([]byte, s.Filesz)
		if _, err := s.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		loader := strings.Trim(string(b), "/\x00")
		files[loader] = filepath.Join(tree, "usr", loader)
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range libraries {
		if name := path.Join("usr/lib/x86_64-linux-gnu", l); files[name] == "" {
			files[name] = filepath.Join(tree, name)
			addLibraries(t, files, tree, files[name])
		}
	}
}
