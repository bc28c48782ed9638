// This file tests empty file systems.

package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/runner/hint"
)

func format(t *testing.T, o FormatOptions) (string, error) {
	t.Helper()
	o.Work = t.TempDir()
	file := filepath.Join(t.TempDir(), "disk.qcow2")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return file, Format(t.Context(), f, o)
}

// Every file system that Format makes is undamaged, has the requested type and UUID,
// and is the same the next time.
func TestFormat(t *testing.T) {
	need(t, "mke2fs", "e2fsck", "qemu-img", "mkswap", "mkfs.xfs", "xfs_repair", "mkfs.btrfs", "btrfs", "mkfs.vfat", "fsck.vfat")
	const id = "01234567-89ab-8def-8123-456789abcdef"
	for kind, program := range map[string]string{"ext2": "mke2fs", "ext3": "mke2fs", "ext4": "mke2fs", "swap": "mkswap", "vfat": "mkfs.vfat", "xfs": "mkfs.xfs", "btrfs": "mkfs.btrfs"} {
		t.Run(kind, func(t *testing.T) {
			o := FormatOptions{Kind: kind, Size: 320 * mib, Label: "a-long-label-16b", UUID: id}
			if kind == "vfat" {
				o.UUID = "0123-ABCD"
			}
			file, err := format(t, o)
			check(t, err)
			if kind != "btrfs" {
				again, err := format(t, o)
				check(t, err)
				if sum(t, file) != sum(t, again) {
					t.Error("the second one differs")
				}
			}
			output(t, "qemu-img", "check", file)
			raw := filepath.Join(t.TempDir(), "disk.raw")
			output(t, "qemu-img", "convert", "-O", "raw", file, raw)
			said := output(t, "blkid", "-p", "-o", "export", raw)
			for _, want := range []string{"TYPE=" + kind, "UUID=" + o.UUID} {
				if !strings.Contains(said, want+"\n") {
					t.Errorf("blkid says\n%s", said)
				}
			}
			switch {
			case strings.HasPrefix(kind, "ext"):
				output(t, "e2fsck", "-fn", raw)
			case kind == "xfs":
				output(t, "xfs_repair", "-n", raw)
			case kind == "btrfs":
				output(t, "btrfs", "check", "--readonly", raw)
			case kind == "vfat":
				output(t, "fsck.vfat", "-n", raw)
			}
			t.Setenv("PATH", t.TempDir())
			if _, err := format(t, o); err == nil || !strings.Contains(err.Error(), program+" is not installed") || !strings.Contains(hint.Of(err), "apt install "+formatPackages[program]) {
				t.Errorf("without %s: %v, hint %q", program, err, hint.Of(err))
			}
		})
	}
	if _, err := format(t, FormatOptions{Kind: "ext4", Size: 4096, Label: "x", UUID: id}); err == nil || !strings.Contains(err.Error(), "make a file system of type ext4 on 0 MiB") {
		t.Errorf("%v", err)
	}
}
