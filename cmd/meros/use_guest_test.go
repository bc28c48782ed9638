// This file tests machines on foreign images whose file system only a kernel
// can change.

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/bench/lab"
)

// guestFormats has shell code by the kind of a file system. The code makes the file
// system on the device $1, mounts it at $2 and sets $to to the directory of the
// root.
var guestFormats = map[string]string{
	"btrfs": `mkfs.btrfs -q "$1"; mount "$1" "$2"; btrfs -q subvolume create "$2/home"; btrfs -q subvolume create "$2/@root"; to="$2/@root"`,
	"xfs":   `mkfs.xfs -q "$1"; mount "$1" "$2"; to="$2"`,
}

// TestUseInGuest builds machines on images with file systems that only a kernel
// can change, as an ordinary user. The machine itself changes them.
func TestUseInGuest(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "mkfs.btrfs", "btrfs", "mkfs.xfs", "xfs_repair", "losetup", "mount", "qemu-system-x86_64")
	tree := foreignTree(t)
	p := lab.Downloaded(t, "used")
	for name, text := range useFiles {
		p.Write(t, "constellations/used/"+name, text)
	}
	for kind, make := range guestFormats {
		t.Run(kind, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image.qcow2")
			guestImage(t, image, tree, make)
			before, err := fileDigest(image)
			if err != nil {
				t.Fatal(err)
			}
			build := func() *lab.Outcome {
				return lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, "build", "used", "m", "--rootfs-only", "--use", image)))
			}
			p.Write(t, "constellations/used/manifest.yml", useFiles["manifest.yml"])
			fails(t, build(), 1, kind+" in partition 2", "hooks: {in: vm}")
			p.Write(t, "constellations/used/manifest.yml", strings.Replace(useFiles["manifest.yml"], "m: {suite: bookworm, ", "m: {suite: bookworm, hooks: {in: vm}, disk_size: 1G, ", 1))
			o := build()
			if o.Exit != 0 {
				t.Fatalf("exit status %d\n%s", o.Exit, o.Stderr)
			}
			t.Logf("built in %v", o.Wall)
			if after, err := fileDigest(image); err != nil || after != before {
				t.Errorf("the image has changed, error %v", err)
			}
			got, size := guestFiles(t, p.Path("data/disks/used-m.qcow2"), kind)
			patchedFiles(t, tree, got)
			if size < 650<<20 { // it had 598 MiB
				t.Errorf("the file system did not grow: it has %d bytes", size)
			}
			if o := build(); len(o.Ran()) > 1 {
				t.Errorf("the second build ran %q", o.Ran())
			}
			if kind == "xfs" {
				large := p.Path("constellations/used/m/includes.chroot/srv/large")
				if out, err := exec.Command("sh", "-c", `head -c 600M /dev/urandom > "$1"`, "sh", large).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				fails(t, build(), 1, "not enough free space in the image: about 60", " MiB are needed, and ", "disk_size: 1")
				os.Remove(large)
			}
			leftovers(t, p)
		})
	}
}

// guestImage makes an image with a tree in the second partition. The first
// partition also has an xfs file system, which is not a root.
func guestImage(t *testing.T, image, tree, make string) {
	t.Helper()
	dir := t.TempDir()
	script := `set -e
raw=$3/raw; mnt=$3/mnt; mkdir "$mnt"
truncate -s 900M "$raw"
printf 'label: gpt\n2048,614400,L\n,,L\n' | sfdisk -q "$raw"
mkfs.xfs -q -f -d file,name="$3/data",size=300m
dd if="$3/data" of="$raw" bs=1M seek=1 conv=notrunc status=none
loop=$(losetup --find --show --offset $((301 << 20)) --sizelimit $((598 << 20)) "$raw")
trap 'umount "$mnt" 2>/dev/null || :; losetup -d "$loop"' EXIT
set -- "$1" "$2" "$loop" "$mnt" "$raw"
make() { ` + make + `; }
make "$3" "$4"
cp -a "$2/." "$to/"
umount "$4"
qemu-img convert -O qcow2 "$5" "$1"
chmod 644 "$1"`
	if out, err := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", image, tree, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// guestFiles checks the file system in the second partition of a disk. It returns
// a directory with a copy of its files, and its size in bytes.
func guestFiles(t *testing.T, disk, kind string) (tree string, size int64) {
	t.Helper()
	dir := t.TempDir()
	const script = `set -e
qemu-img check -q "$1"
raw=$2/raw; mnt=$2/mnt; mkdir "$mnt" "$2/tree"
qemu-img convert -O raw "$1" "$raw"
loop=$(losetup --find --show --offset $((301 << 20)) "$raw")
trap 'umount "$mnt" 2>/dev/null || :; losetup -d "$loop"' EXIT
case $3 in
btrfs) btrfs -q check "$loop"; mount -o ro,subvol=@root "$loop" "$mnt" ;;
xfs) xfs_repair -n "$loop" >/dev/null 2>&1; mount -o ro,norecovery "$loop" "$mnt" ;;
esac
cp -a "$mnt/." "$2/tree/"
stat -f -c '%b %S' "$mnt" > "$2/size"
umount "$mnt"`
	if out, err := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", disk, dir, kind).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var blocks, block int64
	if _, err := fmt.Sscan(readFile(t, filepath.Join(dir, "size")), &blocks, &block); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "tree"), blocks * block
}

// TestUseInGuestBoots boots a machine whose root is a btrfs subvolume.
func TestUseInGuestBoots(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "mkfs.btrfs", "mkfs.xfs", "losetup", "mount", "qemu-system-x86_64", "ssh")
	p := lab.Built(t, "from", "used")
	p.Write(t, "constellations/from/manifest.yml", bootableManifest)
	p.Must(t, "build", "from")
	tree := t.TempDir()
	p.Must(t, "export", "from", "m", "--format", "tar", "-o", filepath.Join(tree, "tar"))
	if err := os.Mkdir(filepath.Join(tree, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", filepath.Join(tree, "tree"), "-xpf", filepath.Join(tree, "tar")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	guestImage(t, p.Path("constellations/used/old.qcow2"), filepath.Join(tree, "tree"), guestFormats["btrfs"])
	p.Write(t, "constellations/used/manifest.yml", "virtual_machines:\n  m: {base: old.qcow2, memory: 512M, cpus: 1, disk_size: 2G, hooks: {in: vm}}\n")
	startUsed(t, p)
	out := p.Must(t, "connect", "used", "m", "--", "cat /etc/motd; hostname; findmnt -no FSTYPE,FSROOT /; df --output=size -BM / | tail -1").Stdout
	f := strings.Fields(out)
	if len(f) != 5 || f[0] != "patched" || f[1] != "m" || f[2] != "btrfs" || f[3] != "/@root" || len(f[4]) != len("1700M") {
		t.Errorf("the machine printed %q", out)
	}
}
