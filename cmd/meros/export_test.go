// This file tests the export of a machine in every format.

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/bench/lab"
)

// TestExport checks that a machine has the same files in every format.
func TestExport(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-img", "zstd", "tar", "mksquashfs", "unsquashfs", "mkfs.erofs", "fsck.erofs")
	p := shared(t, "ex", map[string]string{"m/includes.chroot/etc/motd": "exported\n", "m/hooks/01.chroot": "#!/bin/sh\nrm /etc/issue.net\nchown 7:9 /srv\nchmod 3775 /srv\n" + hookAttributes("/etc/motd")})
	capable(t, p.Path("constellations/ex/m/includes.chroot/etc/motd"))
	p.Must(t, "build", "ex")
	want := filesOf(t, soundDisk(t, p.Path("data/disks/ex-m.qcow2")), 1<<20)
	if got := attributesOf(t, filepath.Join(want, "etc/motd")); got != "security.capability="+netRaw+" user.hook=h user.mine=x" {
		t.Errorf("motd has the attributes %q", got)
	}
	if err := os.Remove(filepath.Join(want, "lost+found")); err != nil {
		t.Fatal(err)
	}
	same := func(t *testing.T, got string, c counts) {
		t.Helper()
		os.Remove(filepath.Join(got, "lost+found"))
		differingFiles(t, want, got, c, nil)
		if got := readFile(t, filepath.Join(got, "etc/motd")); got != "exported\n" {
			t.Errorf("motd has %q", got)
		}
	}
	for name, test := range map[string]struct {
		args   []string
		unpack string // script that unpacks the file $1 into the directory $2
	}{
		"tar.zst":  {[]string{"--format=tar", "--compress=zstd"}, `zstd -dc "$1" | tar -x -p --xattrs --xattrs-include='*' --numeric-owner -C "$2"`},
		"squashfs": {[]string{"--format=squashfs", "--compress=zstd"}, `rmdir "$2"; unsquashfs -q -n -d "$2" "$1"`},
		"erofs":    {[]string{"--format=erofs"}, `rmdir "$2"; fsck.erofs --extract="$2" "$1"`},
		"oci": {[]string{"--format=oci", "--compress=zstd"}, `set -e; mkdir "$2.oci"; tar -x -C "$2.oci" -f "$1"; cd "$2.oci"
for f in blobs/sha256/*; do test "$(sha256sum < $f | cut -c-64)" = "${f##*/}"; done
manifest=$(sed 's/.*"digest":"sha256:\([0-9a-f]*\)".*/\1/' index.json)
for l in $(sed 's/.*"layers"://' blobs/sha256/$manifest | grep -o 'sha256:[0-9a-f]*' | cut -c8-); do
	zstd -qdc blobs/sha256/$l > layer.tar
	for w in $(tar -tf layer.tar | grep '/\.wh\.'); do rm -rf "$2/$(dirname $w)/${w##*/.wh.}"; done
	tar -x -p --xattrs --xattrs-include='*' --numeric-owner --exclude='.wh.*' -C "$2" -f layer.tar
done`},
		"qcow2":   {[]string{"--compress=zstd"}, ""},
		"raw.zst": {[]string{"--format=raw", "--compress=zstd"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "out")
			o := p.Must(t, append([]string{"export", "ex", "m", "--output=" + file}, test.args...)...)
			if strings.TrimSpace(o.Stdout) != file {
				t.Errorf("export printed %q, want the path %q", o.Stdout, file)
			}
			if name == "tar.zst" || name == "oci" {
				again := filepath.Join(lab.InMemory(t), "out") // on another file system
				p.Must(t, append([]string{"export", "ex", "m", "--output=" + again}, test.args...)...)
				one, _ := fileDigest(file)
				if two, err := fileDigest(again); err != nil || one != two {
					t.Errorf("the second export is different, error %v", err)
				}
			}
			to := filepath.Join(t.TempDir(), "tree")
			if err := os.Mkdir(to, 0o755); err != nil {
				t.Fatal(err)
			}
			switch name {
			case "qcow2":
				same(t, filesOf(t, soundDisk(t, file), 1<<20), everything)
			case "raw.zst":
				raw := file + ".raw"
				if out, err := exec.Command("zstd", "-q", "-d", file, "-o", raw).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				same(t, filesOf(t, raw, 1<<20), everything)
			default:
				if out, err := exec.Command("sh", "-c", test.unpack, "sh", file, to).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				c := everything
				switch name {
				case "squashfs":
					c.times = false // all files have the machine's time
				case "erofs":
					c = counts{mask: c.mask &^ 0o6000} // fsck.erofs drops these bits, attributes and times
					checkErofs(t, file)
				}
				same(t, to, c)
			}
		})
	}
	t.Run("manifest", func(t *testing.T) {
		p.Write(t, "constellations/ex/manifest.yml", "format: tar\ncompress: zstd\n"+plain)
		p.Must(t, "build", "ex")
		p.Must(t, "export", "ex", "m", "--output="+p.Path("by-hand"))
		p.Must(t, "export", "ex", "m", "--format=tar", "--compress=zstd", "--output="+p.Path("named"))
		want, _ := fileDigest(p.Path("named"))
		for _, file := range []string{"data/disks/ex-m.tar.zst", "by-hand"} {
			if got, err := fileDigest(p.Path(file)); err != nil || got != want {
				t.Errorf("%s differs from the export with flags, error %v", file, err)
			}
		}
	})
	leftovers(t, p)
}

// checkErofs looks for attributes in an erofs image itself, because the extractor
// drops them.
func checkErofs(t *testing.T, file string) {
	t.Helper()
	out, err := exec.Command("dump.erofs", "--path=/etc/motd", file).CombinedOutput()
	if _, size, ok := strings.Cut(string(out), "Xattr size: "); err != nil || !ok || strings.HasPrefix(size, "0") {
		t.Errorf("/etc/motd of the image has no attributes: %v\n%s", err, out)
	}
}
