// This file tests which foreign images meros rejects.

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/bench/lab"
	"meros/constellations"
	"meros/runner/hint"
)

// TestUseRefuses checks that meros rejects files that are not root images, and
// images that refer to other files.
func TestUseRefuses(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-img", "mke2fs", "sfdisk", "fuse2fs")
	p := lab.Downloaded(t, "used")
	for name, text := range useFiles {
		p.Write(t, "constellations/used/"+name, text)
	}
	const script = `set -e
cd "$DIR"
printf 'qcow2 this is not' > garbage.qcow2
truncate -s 64M empty.raw
mke2fs -q -t ext4 data.raw 64M
qemu-img create -q -f qcow2 -b /etc/shadow -F raw backed.qcow2 64M
qemu-img create -q -f qcow2 -o data_file="$DIR/outside.raw",data_file_raw=on datafile.qcow2 64M
qemu-img create -q -f qcow2 --object secret,id=s,data=x -o encrypt.format=aes,encrypt.key-secret=s encrypted.qcow2 64M
qemu-img create -q -f qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 luks.qcow2 64M
truncate -s 64M lvm.raw; printf 'label: gpt\n,,E6D6D379-F507-44C2-A23C-238F2A3DF928\n' | sfdisk -q lvm.raw
truncate -s 64M luks.raw; printf 'LUKS\272\276' | dd of=luks.raw conv=notrunc status=none
mkdir -p arm/etc arm/usr/bin; : > arm/etc/passwd; printf '\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\3\0\267\0' > arm/usr/bin/dash; mke2fs -q -t ext4 -d arm arm.raw 64M
qemu-img convert -O qcow2 data.raw damaged.qcow2; dd if=/dev/urandom of=damaged.qcow2 bs=64k seek=1 count=2 conv=notrunc status=none
printf '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 131072 FLAT "/usr/bin/qemu-img" 0\n' > host.vmdk
head -c 5M /dev/urandom > random; qemu-img convert -f raw -O qcow2 random cut.qcow2; truncate -s -1M cut.qcow2`
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), "DIR="+p.Root)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for image, words := range map[string][]string{
		"garbage.qcow2": {"used/m base image"}, "empty.raw": {"neither a file system nor a partition table", "hint: check that the image is not empty"}, "data.raw": {"not a root file system"},
		"backed.qcow2": {"a difference to another file", "/etc/shadow"}, "datafile.qcow2": {"the content is in another file", "outside.raw"}, "encrypted.qcow2": {"base image: encrypted"}, "luks.qcow2": {"base image: encrypted"},
		"lvm.raw": {"LVM", "plain partition"}, "luks.raw": {"LUKS"}, "arm.raw": {"/usr/bin/dash is a program of aarch64", "the machine is of x86_64"}, "damaged.qcow2": {"used/m base image", "damaged or truncated"},
		"host.vmdk": {"the content is in another file", "/usr/bin/qemu-img"}, "cut.qcow2": {"damaged or truncated: qemu-img check finds"},
	} {
		t.Run(image, func(t *testing.T) {
			fails(t, p.Run(t, "build", "used", "m", "--rootfs-only", "--use", p.Path(image)), 1, words...)
			leftovers(t, p)
		})
	}
	p.Write(t, "constellations/used/manifest.yml", "virtual_machines:\n  m: {suite: bookworm, base: data.raw, packages: [nginx]}\n")
	fails(t, p.Run(t, "build", "used", "--rootfs-only", "--locked"), 2, "meros does not install packages into existing images")
	for image, words := range map[string]string{"host.vmdk": "the content is in another file", "cut.qcow2": "damaged or truncated"} {
		p.Write(t, "constellations/used/manifest.yml", "virtual_machines:\n  m: {suite: bookworm, disks: [{label: d, base: "+image+"}]}\n")
		fails(t, p.Run(t, "build", "used", "--rootfs-only", "--keep-going"), 1, "disk d of "+image, words) // the hooks fail as well
	}
}

// TestUseNames checks that --use accepts the same names as `base:` in a manifest,
// with paths relative to the working directory.
func TestUseNames(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.qcow2", "b.tar"} {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for use, want := range map[string]string{
		"a.qcow2": here + "/a.qcow2", "oci:b.tar": "oci:" + here + "/b.tar", "oci:b.tar:v1": "oci:" + here + "/b.tar:v1", "oci:.": "oci:" + here,
		"https://example.org/a.qcow2": "https://example.org/a.qcow2", "file:///a.qcow2": "file:///a.qcow2", "docker://debian:12": "docker://debian:12",
	} {
		if got, err := baseFromHere(use); got != want || err != nil {
			t.Errorf("--use %s is %s, error %v, want %s", use, got, err, want)
		}
	}
	for use, words := range map[string]string{
		"c.qcow2":                   "there is no such image\nan image of a registry is docker://NAME:TAG",
		"debian:12":                 "docker://NAME:TAG",
		".":                         "this is a directory\n`oci:PATH` reads a container image in a directory",
		"/dev/null":                 "this is not a regular file\nconvert a device with `qemu-img convert`",
		"a.qcow2/b":                 "not a directory",
		"oci:c.tar":                 "c.tar does not exist\nan image of a registry is `docker://NAME:TAG`",
		"docker://-x":               "not a valid reference to an image in a registry\nwrite it as docker://debian:12",
		"ftp://example.org/a.qcow2": "not a valid URL of an image: https, http or file",
		"https://example.org/":      "write it as https://host/image.qcow2",
	} {
		if _, err := baseFromHere(use); err == nil || !strings.Contains(err.Error()+"\n"+hint.Of(err), words) {
			t.Errorf("--use %s: %v, hint %q, want %q", use, err, hint.Of(err), words)
		}
	}
}

// TestUseLeavesTheManifest checks that --use does not change the manifest, because
// the manifest decides which pins the lock retains.
func TestUseLeavesTheManifest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	m := &constellations.Manifest{Machines: []constellations.Machine{{Name: "m", Base: "https://example.org/a.qcow2", Packages: []string{"nano"}}}}
	machines := []*constellations.Machine{&m.Machines[0]}
	if err := (&request{Use: givenImage(file)}).useImage(&env{entered: true}, machines); err != nil {
		t.Fatal(err)
	}
	if machines[0].Base != file || len(machines[0].Packages) != 0 {
		t.Errorf("the machine has the base %s and the packages %q", machines[0].Base, machines[0].Packages)
	}
	if err := (&request{Use: "nothing.qcow2"}).useImage(&env{}, machines); !errors.As(err, new(usageError)) {
		t.Errorf("a missing image: %v", err)
	}
	if kept := m.Machines[0]; kept.Base != "https://example.org/a.qcow2" || len(kept.Packages) != 1 {
		t.Errorf("the manifest now has the base %s and the packages %q", kept.Base, kept.Packages)
	}
}
