// This file makes the ext4 image of a tree with mke2fs and debugfs. size.go decides
// how large it is.

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"meros/runner/hint"
)

// Options describe a disk image.
type Options struct {
	Size  int64     // of the disk, bytes; 0 fits it to the tree and Free
	Free  int64     // free space in the file system, bytes, if Size is 0
	Label string    // of the file system and the partition, at most 16 bytes
	Seed  string    // identifiers are derived from it
	Epoch time.Time // the clock of every program involved
	Work  string    // directory for temporary files
	Log   io.Writer // receives notes and warnings; may be nil

	// Patch says that the base image of a difference is foreign: [FromTree] did
	// not make it, and it cannot be packed again from its tree.
	Patch  bool
	Offset int64 // with Patch: where the file system begins, bytes
}

// note logs a wish that could not be granted.
func (o Options) note(format string, a ...any) {
	if o.Log != nil {
		fmt.Fprintf(o.Log, "note: "+format+"\n", a...)
	}
}

// features lists the ext4 features of every file system. It is complete, so that no
// configuration of the host has an effect.
const features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

const (
	blockSize  = 4096
	inodeSize  = 256
	inodeRatio = 16384 // bytes of disk for each inode, mke2fs's default
)

// FromTree writes a qcow2 image to out whose root file system holds the tree. The
// caller must be able to read the whole tree, and must be root in a namespace that
// maps its owners.
func FromTree(ctx context.Context, out *os.File, tree string, o Options) error {
	c, err := measure(tree)
	if err != nil {
		return fmt.Errorf("measure %s: %w", tree, err)
	}
	o.noteLargeDirectories("mke2fs", c.entries)
	raw, err := os.Create(filepath.Join(o.Work, "disk.raw"))
	if err != nil {
		return err
	}
	defer os.Remove(raw.Name())
	defer raw.Close()
	size, err := populate(ctx, raw, tree, c, o)
	if err != nil {
		return err
	}
	if err := removeForeign(ctx, raw.Name(), tree, o); err != nil {
		return fmt.Errorf("remove the host's attributes: %w", err)
	}
	if err := settleInodes(raw); err != nil {
		return fmt.Errorf("set the times of the inodes: %w", err)
	}
	if err := WriteGPT(raw, size, o.Seed, o.Label); err != nil {
		return err
	}
	clusters, err := rawClusters(raw, size)
	if err != nil {
		return fmt.Errorf("read the disk: %w", err)
	}
	return writeQcow2(out, size, clusters, "")
}

// populate makes the file system with the largest journal that fits, and returns the
// size of the disk in bytes.
func populate(ctx context.Context, raw *os.File, tree string, c content, o Options) (size int64, err error) {
	for _, s := range shapes(c, o) {
		if s.size < aroundRoot+c.bytes+s.journal {
			continue
		}
		if err := raw.Truncate(0); err != nil {
			return 0, err
		}
		if err := resize(raw, s.size); err != nil {
			return 0, err
		}
		if err = mke2fs(ctx, raw.Name(), tree, s, c.inodesOf(s.size), o); !errors.Is(err, errFull) {
			return s.size, err
		}
	}
	if o.Size == 0 {
		return 0, err
	}
	missing := (c.enough(o.Size+mib) - o.Size) / mib
	return 0, hint.Add(fmt.Errorf("the disk is too small for its files: %d MiB are missing", missing), "raise `disk_size` by that much")
}

// removeForeign removes the host's extended attributes, such as the labels of a
// security module. mke2fs(8) copies them from the tree, and has no option against
// that before version 1.47.1.
func removeForeign(ctx context.Context, raw, tree string, o Options) error {
	b := new(commands)
	err := filepath.WalkDir(tree, func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		names, err := xattrNames(file)
		if err != nil || len(names) == 0 {
			return err
		}
		name, err := filepath.Rel(tree, file)
		if err != nil {
			return err
		}
		for _, x := range names {
			if preservedXattr(x) {
				continue
			}
			if unnameable(name) != "" || !plainXattr.MatchString(x) || len(path.Base(name))+len(x) > maxCommand-32 {
				return fmt.Errorf("%q: unsupported name of an extended attribute: %q", name, x)
			}
			fmt.Fprintf(b, "ea_rm %s %s\n", b.in(name), x)
		}
		return nil
	})
	if err != nil || b.Len() == 0 {
		return err
	}
	file := filepath.Join(o.Work, "foreign")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return debugfs(ctx, raw, file, o.Work, o)
}

// errFull says that a file system is too small for its content.
var errFull = errors.New("the file system is full")

// mke2fs makes a file system of the tree in the partition of a raw disk. The error
// is [errFull] if the tree does not fit.
func mke2fs(ctx context.Context, raw, tree string, s shape, inodes int64, o Options) error {
	// An empty configuration overrides the host's /etc/mke2fs.conf.
	conf := filepath.Join(o.Work, "mke2fs.conf")
	if err := os.WriteFile(conf, []byte("[defaults]\n"), 0o644); err != nil {
		return err
	}
	uuid := NewUUID("filesystem", o.Seed).String()
	fsSize := s.size - aroundRoot
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4",
		"-O", features, "-b", strconv.Itoa(blockSize), "-I", strconv.Itoa(inodeSize), "-N", strconv.FormatInt(inodes, 10),
		"-m", "1", "-J", fmt.Sprintf("size=%d", s.journal/mib), "-L", o.Label, "-U", uuid,
		"-E", fmt.Sprintf("offset=%d,hash_seed=%s,root_owner=0:0,lazy_itable_init=1,lazy_journal_init=0,nodiscard", PartitionOffset, NewUUID("hash", o.Seed)),
		"-d", tree, raw, fmt.Sprintf("%dk", fsSize/1024))
	cmd.Env = append(clockEnv(o.Epoch), "MKE2FS_CONFIG="+conf)
	err := run(cmd)
	if err != nil && (strings.Contains(err.Error(), "Could not allocate") || strings.Contains(err.Error(), "too big for filesystem")) {
		return fmt.Errorf("%w: %w", errFull, err)
	}
	return err
}

// clockEnv sets the clock of e2fsprogs to epoch. Up to version 1.47.0 the programs
// read the first variable, and e2fsck the second. From 1.47.1 on they read the
// third.
func clockEnv(epoch time.Time) []string {
	t := strconv.FormatInt(max(epoch.Unix(), 1), 10)
	return []string{"E2FSPROGS_FAKE_TIME=" + t, "E2FSCK_TIME=" + t, "SOURCE_DATE_EPOCH=" + t, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC"}
}

// run runs a program. The error contains the program's output.
func run(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Args[0]), err, strings.TrimSpace(out.String()))
	}
	return nil
}

// roundUp rounds n up to a multiple of to.
func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
