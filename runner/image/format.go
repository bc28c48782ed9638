// This file makes disks that hold one empty file system.

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// FormatOptions describe an empty file system.
type FormatOptions struct {
	Kind  string // ext2, ext3, ext4, btrfs, xfs, vfat or swap
	Size  int64  // of the disk, bytes
	Label string // of the file system, cut to the longest one allowed
	UUID  string // of the file system; for FAT its serial number
	Work  string // directory for temporary files
}

// formatted is the time of every empty file system.
var formatted = time.Unix(1, 0)

// maxLabel limits the length of labels, bytes: mkfs.xfs(8), mkfs.fat(8). The other
// file systems allow 16 or more.
var maxLabel = map[string]int{"xfs": 12, "vfat": 11}

// extFeatures lists the features of each kind of ext, as [features] does for roots.
var extFeatures = map[string]string{
	"ext2": "none,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file",
	"ext3": "none,has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file",
	"ext4": features,
}

// Format writes a qcow2 image to out: a disk with an empty file system and no
// partition table.
func Format(ctx context.Context, out *os.File, o FormatOptions) error {
	raw, err := os.Create(filepath.Join(o.Work, "disk.raw"))
	if err != nil {
		return err
	}
	defer os.Remove(raw.Name())
	defer raw.Close()
	if err := resize(raw, o.Size); err != nil {
		return err
	}
	argv, env, err := o.argv(raw.Name())
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(append(clockEnv(formatted), "DETERMINISTIC_SEED=yes"), env...) // xfsprogs 6.17 and later
	if err := run(cmd); errors.Is(err, exec.ErrNotFound) {
		return notInstalled(argv[0], "makes file systems of type "+o.Kind, formatPackages[argv[0]])
	} else if err != nil {
		return fmt.Errorf("make a file system of type %s on %d MiB: %w", o.Kind, o.Size>>20, err)
	}
	if o.Kind == "xfs" {
		if err := stampXFS(raw, formatted); err != nil {
			return err
		}
	}
	return FromRaw(out, raw)
}

// formatPackages maps the programs to Debian's packages.
var formatPackages = map[string]string{"mke2fs": "e2fsprogs", "mkfs.btrfs": "btrfs-progs", "mkfs.xfs": "xfsprogs", "mkfs.vfat": "dosfstools", "mkswap": "util-linux"}

// argv returns the command that makes the file system, and its environment.
func (o FormatOptions) argv(raw string) (argv, env []string, err error) {
	label := o.Label
	if n, ok := maxLabel[o.Kind]; ok && len(label) > n {
		label = label[:n]
	}
	switch o.Kind {
	case "ext2", "ext3", "ext4":
		// An empty configuration overrides the host's /etc/mke2fs.conf.
		conf := filepath.Join(o.Work, "mke2fs.conf")
		err := os.WriteFile(conf, []byte("[defaults]\n"), 0o644)
		return []string{
			"mke2fs", "-q", "-F", "-t", o.Kind, "-O", extFeatures[o.Kind], "-b", strconv.Itoa(blockSize), "-I", strconv.Itoa(inodeSize), "-m", "0", "-L", label, "-U", o.UUID,
			"-E", "hash_seed=" + o.UUID + ",root_owner=0:0,lazy_itable_init=1,lazy_journal_init=0,nodiscard", raw,
		}, []string{"MKE2FS_CONFIG=" + conf}, err
	case "btrfs":
		return []string{"mkfs.btrfs", "-q", "-f", "-L", label, "-U", o.UUID, raw}, nil, nil
	case "xfs":
		return []string{"mkfs.xfs", "-q", "-f", "-L", label, "-m", "uuid=" + o.UUID, raw}, nil, nil
	case "vfat":
		return []string{"mkfs.vfat", "--invariant", "-F", "32", "-n", strings.ToUpper(label), "-i", strings.ReplaceAll(o.UUID, "-", ""), raw}, nil, nil
	case "swap":
		return []string{"mkswap", "-q", "-L", label, "-U", o.UUID, raw}, nil, nil
	}
	return nil, nil, fmt.Errorf("unsupported file system: %q", o.Kind)
}
