// This file tests which foreign images are accepted.

package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/runner/hint"
)

// foreign makes disk.raw in a new directory, and runs the script there, which makes
// images of it.
func foreign(t *testing.T, script string) (dir string) {
	t.Helper()
	need(t, "mke2fs", "qemu-img")
	dir = t.TempDir()
	tree := filepath.Join(dir, "tree/etc")
	check(t, os.MkdirAll(tree, 0o755))
	check(t, os.WriteFile(filepath.Join(tree, "passwd"), []byte("root:x:0:0::/:/bin/sh\n"), 0o644))
	check(t, os.WriteFile(filepath.Join(tree, "random"), randomBytes(8*mib), 0o644))
	output(t, "sh", "-c", `set -e; cd "$0"; mke2fs -q -t ext4 -d tree disk.raw 64M; `+script, dir)
	return dir
}

// refused fails the test unless the image is refused. The words must be in the error
// or in the line "hint: ..." below it.
func refused(t *testing.T, file string, words ...string) {
	t.Helper()
	d, err := OpenForeign(t.Context(), file, Options{Work: t.TempDir()})
	if err == nil {
		d.Close()
		t.Fatal("the image is accepted")
	}
	text := err.Error() + "\nhint: " + hint.Of(err)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s\nlacks %q", text, w)
		}
	}
}

// An image of each supported format is opened. An image with content in other files
// is refused, and so are the formats whose images name files that QEMU would open.
func TestForeignFormats(t *testing.T) {
	dir := foreign(t, `
for f in qcow2 vmdk vdi vhdx qcow vpc qed parallels; do qemu-img convert -O $f disk.raw whole.$f; done
qemu-img convert -O qcow2 -o compat=0.10 disk.raw old.qcow2
qemu-img convert -O vmdk -o subformat=streamOptimized disk.raw stream.vmdk
for s in monolithicFlat twoGbMaxExtentFlat twoGbMaxExtentSparse; do qemu-img convert -O vmdk -o subformat=$s disk.raw $s.vmdk; done
cp disk.raw disk.dmg; truncate -s +512 disk.dmg; printf koly | dd of=disk.dmg bs=1 seek=67108864 conv=notrunc status=none
printf '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 131072 FLAT "/usr/bin/qemu-img" 0\n' > host.vmdk
printf 'KDMV\001\0\0\0\003\0\0\0\0\0\0\0\0\0\0\0\200\0\0\0\0\0\0\0\001\0\0\0\0\0\0\0\024\0\0\0\0\0\0\0' > envelope.vmdk
truncate -s 512 envelope.vmdk; cat host.vmdk >> envelope.vmdk; truncate -s 64K envelope.vmdk
qemu-img create -q -f vmdk -b whole.vmdk -F vmdk child.vmdk
qemu-img create -q -f qcow2 -o data_file=outside.raw,data_file_raw=on data.qcow2 64M`)
	want := sum(t, filepath.Join(dir, "disk.raw"))
	for _, name := range []string{"disk.raw", "whole.qcow2", "old.qcow2", "whole.vmdk", "stream.vmdk", "whole.vdi", "whole.vhdx"} {
		t.Run(name, func(t *testing.T) {
			work := t.TempDir()
			d, err := OpenForeign(t.Context(), filepath.Join(dir, name), Options{Work: work})
			check(t, err)
			check(t, d.Close())
			if sum(t, filepath.Join(work, "disk.raw")) != want {
				t.Error("the content differs")
			}
		})
	}
	const elsewhere = "the content is in another file: "
	for name, words := range map[string][]string{
		"whole.qcow": {"image format qcow\n", "hint: convert it with `qemu-img convert -O qcow2`"}, "whole.vpc": {"image format vhd\n"}, "whole.qed": {"image format qed\n"}, "whole.parallels": {"image format parallels\n"}, "disk.dmg": {"image format dmg\n"},
		"monolithicFlat.vmdk": {elsewhere + `"monolithicFlat-flat.vmdk"`, "hint: make one file of it with `qemu-img convert -O qcow2`"}, "twoGbMaxExtentFlat.vmdk": {elsewhere + `"twoGbMaxExtentFlat-f001.vmdk"`},
		"twoGbMaxExtentSparse.vmdk": {elsewhere + `"twoGbMaxExtentSparse-s001.vmdk"`}, "host.vmdk": {elsewhere + `"/usr/bin/qemu-img"`}, "envelope.vmdk": {elsewhere + `"/usr/bin/qemu-img"`},
		"child.vmdk": {"a difference to another file", "whole.vmdk"}, "data.qcow2": {elsewhere, "outside.raw"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, filepath.Join(dir, name), words...) })
	}
}

// A damaged or truncated image is refused. QEMU would read zeros behind its end.
func TestForeignDamage(t *testing.T) {
	dir := foreign(t, `
qemu-img convert -O qcow2 -c disk.raw packed.qcow2
qemu-img convert -O vmdk -o subformat=streamOptimized disk.raw stream.vmdk
for f in qcow2 vmdk vdi vhdx; do qemu-img convert -O $f disk.raw whole.$f; done
cp whole.qcow2 scribbled.qcow2; dd if=/dev/urandom of=scribbled.qcow2 bs=64k seek=1 count=1 conv=notrunc status=none
cp whole.qcow2 leaks.qcow2; dd if=/dev/zero bs=64k count=1 status=none >> leaks.qcow2
printf '\0\001' | dd of=leaks.qcow2 bs=1 seek=$((2 * 65536 + 2 * $(stat -c %s whole.qcow2) / 65536)) conv=notrunc status=none # its place in the only block of counts
s=0; qemu-img check -q leaks.qcow2 || s=$?; [ $s = 3 ]
head -c 100 whole.vdi > short.vdi
for f in packed.qcow2 stream.vmdk whole.qcow2 whole.vmdk whole.vdi whole.vhdx; do truncate -s -1M $f; done`)
	for _, name := range []string{"packed.qcow2", "stream.vmdk", "whole.qcow2", "whole.vmdk", "whole.vdi", "whole.vhdx", "short.vdi", "scribbled.qcow2"} {
		t.Run(name, func(t *testing.T) {
			refused(t, filepath.Join(dir, name), "damaged or truncated: ", "hint: copy or download the image again")
		})
	}
	t.Run("leaks", func(t *testing.T) {
		d, err := OpenForeign(t.Context(), filepath.Join(dir, "leaks.qcow2"), Options{Work: t.TempDir()})
		check(t, err)
		check(t, d.Close())
	})
}

// A file system that debugfs cannot read is reported as damaged, and an undamaged one
// without /etc is not.
func TestForeignFileSystems(t *testing.T) {
	need(t, "sfdisk", "debugfs")
	dir := foreign(t, `
rm tree/etc/passwd; mke2fs -q -t ext4 -d tree none.raw 64M
rm -r tree/etc; touch tree/etc; mke2fs -q -t ext4 -d tree file.raw 64M
rm -r tree/etc; ln -s etc tree/etc; mke2fs -q -t ext4 -d tree loop.raw 64M
bitmap=$(dumpe2fs disk.raw 2>/dev/null | sed -n 's/^ *Block bitmap at \([0-9]*\).*/\1/p' | head -1)
block=$(dumpe2fs -h disk.raw 2>/dev/null | sed -n 's/^Block size: *//p')
head -c $block /dev/urandom | dd of=disk.raw bs=$block seek=$bitmap conv=notrunc status=none
truncate -s 80M parts.raw; printf 'label: dos\n2048,131072,83\n' | sfdisk -q parts.raw; dd if=disk.raw of=parts.raw bs=1M seek=1 conv=notrunc status=none`)
	for name, words := range map[string]string{
		"none.raw": "not a root file system: it has neither", "file.raw": "not a root file system", "loop.raw": "not a root file system",
		"disk.raw": "damaged file system: debugfs: ", "parts.raw": "partition 1: damaged file system: debugfs: ",
	} {
		t.Run(name, func(t *testing.T) {
			d, err := OpenForeign(t.Context(), filepath.Join(dir, name), Options{Work: t.TempDir()})
			check(t, err)
			defer d.Close()
			if l, err := d.Root(t.Context()); err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%v, %v, want %q", l, err, words)
			}
		})
	}
}

// Quotas are correct after a patch, made with FUSE or without.
func TestForeignQuotas(t *testing.T) {
	need(t, "debugfs", "e2fsck", "resize2fs", "qemu-storage-daemon")
	dir := foreign(t, `chown -R 12:34 tree; mke2fs -q -F -t ext4 -O quota,project -d tree disk.raw 64M`)
	base := filepath.Join(dir, "base.qcow2")
	d, err := OpenForeign(t.Context(), filepath.Join(dir, "disk.raw"), Options{Work: t.TempDir(), Epoch: epoch, Size: 100 * mib})
	check(t, err)
	defer d.Close()
	l, err := d.Root(t.Context())
	check(t, err)
	_, err = d.GrowExt(t.Context(), l)
	check(t, err)
	f, err := os.Create(base)
	check(t, err)
	defer f.Close()
	check(t, d.Write(f))
	layer := sampleLayer(t)
	var sums []string
	for _, path := range []string{os.Getenv("PATH"), hidePath(t, "qemu-storage-daemon")} {
		t.Setenv("PATH", path)
		delta, err := os.Create(filepath.Join(t.TempDir(), "delta.qcow2"))
		check(t, err)
		defer delta.Close()
		check(t, Delta(t.Context(), delta, base, base, filepath.Join(dir, "tree"), []string{layer}, Options{Epoch: epoch, Work: t.TempDir(), Patch: true}))
		sums = append(sums, sum(t, delta.Name()))
		raw := filepath.Join(t.TempDir(), "raw")
		output(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", delta.Name(), raw)
		output(t, "e2fsck", "-fn", raw)
	}
	if sums[0] != sums[1] {
		t.Error("the copy gives another image than the export")
	}
}
