// This file plans a machine's further disks: empty ones (stage format) and copies
// of images (stage convert).

package stages

import (
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"meros/constellations"
	"meros/graph"
)

// Names of the plan and the step, see names.go.
const (
	ParamFileSystem = "fs"   // kind of the file system
	ParamUUID       = "uuid" // of the file system
)

const (
	formatRevision  = 2
	convertRevision = 2
)

// Disk is a further disk of a machine before its first use.
type Disk struct {
	constellations.Disk
	Image *graph.Node // with the output "image"
}

// formatters are the programs that make file systems.
var formatters = map[string]string{
	"ext2": "mke2fs", "ext3": "mke2fs", "ext4": "mke2fs", "btrfs": "mkfs.btrfs", "xfs": "mkfs.xfs", "vfat": "mkfs.vfat", "swap": "mkswap",
}

// fileSystemModules lists the modules that a distribution's kernel needs for a
// file system besides [kernelModules].
var fileSystemModules = map[string][]string{
	"btrfs": {"btrfs"}, "xfs": {"xfs"}, "vfat": {"vfat", "nls_cp437", "nls_iso8859-1", "nls_ascii"},
}

// disks returns the machine's further disks. All machines share the empty disks of
// one size, file system and label.
func (pl *planner) disks(vm *constellations.Machine) ([]Disk, error) {
	var all []Disk
	for _, d := range vm.Disks {
		n := &graph.Node{
			Stage: "format", Revision: formatRevision, Name: fmt.Sprintf("empty disk %s (%s, %d MiB)", d.Label, d.FSType, d.Size>>20),
			Params: append([]graph.Param{
				{Name: ParamFileSystem, Value: d.FSType}, {Name: ParamSize, Value: strconv.FormatInt(d.Size, 10)}, {Name: ParamLabel, Value: d.Label},
				{Name: ParamUUID, Value: fileSystemID(d)},
			}, pl.tools(formatters[d.FSType])...),
			Outputs: []string{OutImage},
			Impure:  d.FSType == "btrfs", // mkfs.btrfs chooses ids that no argument sets
		}
		if d.Base != "" {
			n = &graph.Node{
				Stage: "convert", Revision: convertRevision, Name: fmt.Sprintf("disk %s of %s", d.Label, path.Base(d.Base)),
				Params:  append([]graph.Param{{Name: ParamSize, Value: strconv.FormatInt(d.Size, 10)}}, pl.tools("qemu-img")...),
				Outputs: []string{OutImage},
			}
			if err := pl.imageOf(n, "the base of disk "+d.Label, d.Base, ""); err != nil {
				return nil, err
			}
		}
		all = append(all, Disk{d, pl.plan.Add(n)})
	}
	return all, nil
}

// diskSource returns the name, for fstab(5), of the file system on a machine's nth
// further disk. Only a build finds out what an image holds. So the name of an image
// is its device: the machine's own disk comes first, then the further ones in order.
func diskSource(n int, d constellations.Disk) string {
	switch {
	case d.Base == "":
		return "UUID=" + fileSystemID(d)
	case d.Partition > 0:
		return fmt.Sprintf("/dev/vd%c%d", 'b'+n, d.Partition)
	}
	return fmt.Sprintf("/dev/vd%c", 'b'+n)
}

// fileSystemID returns the identifier of an empty disk's file system: a UUID of
// version 8 (RFC 9562), or for FAT a serial number.
func fileSystemID(d constellations.Disk) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", d.Label, d.FSType, d.Size))
	if d.FSType == "vfat" {
		return fmt.Sprintf("%X-%X", h[:2], h[2:4])
	}
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// modules returns the kernel modules that a machine needs, separated by spaces.
func modules(vm *constellations.Machine) string {
	names := slices.Clone(kernelModules)
	var kinds []string
	for _, d := range vm.Disks {
		kinds = append(kinds, d.FSType)
	}
	if HooksInVM(vm) && isImage(vm) {
		kinds = append(kinds, "btrfs", "xfs") // its root file system may be either
	}
	for _, kind := range kinds {
		for _, m := range fileSystemModules[kind] {
			if !slices.Contains(names, m) {
				names = append(names, m)
			}
		}
	}
	return strings.Join(names, " ")
}
