// This file adds a kernel and an ssh server to a mirror of Alpine, so that its
// machines boot.

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// AddBoot adds the packages that a machine needs to boot: a kernel and an ssh
// server. The kernel is the Debian kernel that a project's lock pins, packaged
// like Alpine's.
func (m *AlpineMirror) AddBoot(t testing.TB, p *Project, lockFile string) {
	t.Helper()
	Need(t, "dpkg-deb")
	sshd := filepath.Join(t.TempDir(), "sshd")
	BuildFor(t, sshd, "meros/bench/lab/sshd", map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[m.Arch])
	m.Add(t, APK{Name: "openssh-server", Version: "9.7_p1-r4", Sources: map[string]string{"usr/sbin/sshd": sshd}})
	lock, err := os.ReadFile(p.Path(lockFile))
	if err != nil {
		t.Fatal(err)
	}
	deb := ""
	for line := range strings.Lines(string(lock)) {
		if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[1], "linux-image-") {
			deb = p.Path(filepath.Join("data/cache/cas", f[7][:2], f[7]))
		}
	}
	tree := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-x", deb, tree).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files := make(map[string]string)
	err = filepath.WalkDir(tree, func(file string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, _ := filepath.Rel(tree, file)
		switch base := filepath.Base(name); {
		case strings.HasPrefix(base, "vmlinuz-"):
			files["boot/vmlinuz-virt"] = file
		case strings.HasPrefix(base, "config-"):
			files[filepath.Join("boot", base)] = file
		case strings.HasSuffix(base, ".ko"):
			if out, err := exec.Command("gzip", "-1", file).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			files[name+".gz"] = file + ".gz"
		case base == "modules.builtin":
			files[name] = file
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Add(t, APK{Name: "linux-virt", Version: "6.6.52-r0", Sources: files})
	m.Index(t)
}
